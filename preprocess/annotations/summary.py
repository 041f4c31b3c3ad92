"""What `preprocess.manifest` prints: the table of splits, and lines on what was left out."""

from __future__ import annotations

from collections import Counter

from preprocess.annotations.base import Annotations
from preprocess.annotations.clip_rows import ClipRows
from preprocess.annotations.dataset_spec import DatasetSpec
from preprocess.video.video_index import VideoIndex
from shared.manifest import SPLITS
from shared.wording import counted, listed


def index_notes(index: VideoIndex) -> list[str]:
    """Lines on files and folders below the video root that are no videos of the dataset."""
    notes = []
    if index.links:
        notes.append(
            f"{counted(len(index.links), 'linked folder')} not searched, such as {index.links[0]!r}"
        )
    if index.unread:
        notes.append(index.unread)
    if index.refused:
        path, reason = next(iter(index.refused.items()))
        left_out = counted(len(index.refused), "video")
        notes.append(f"{left_out} left out, such as {path!r}, which {reason}")
    if index.others:
        suffixes: Counter[str] = Counter()
        for (_, suffix), number in index.others.items():
            suffixes[suffix or "no suffix"] += number
        kinds = listed([f"{number} {suffix}" for suffix, number in suffixes.most_common()], 5)
        notes.append(
            f"{counted(sum(suffixes.values()), 'file')} not taken, because the suffix is that of "
            f"no video ({kinds}), such as {index.other!r}"
        )
    return notes


def row_notes(rows: ClipRows, index: VideoIndex) -> list[str]:
    """Lines on how the videos of the clips were found."""
    notes = []
    used = {clip.video for clip in rows.clips}.union(*rows.doubles.values())
    unlisted = [path for path in index.paths if path not in used]
    if unlisted:
        notes.append(
            f"{counted(len(unlisted), 'video')} that the annotations do not list, such as "
            f"{unlisted[0]!r}"
        )
    if rows.recomposed:
        listed_as, path = rows.recomposed[0]
        notes.append(
            f"{counted(len(rows.recomposed), 'video')} found by another Unicode form of the name "
            f"(NFC, NFD): {listed_as!a} is {path!a}"
        )
    rates = Counter(clip.frames_per_second for clip in rows.clips if clip.is_frame_folder)
    for rate, number in rates.items():
        notes.append(
            f"{counted(number, 'folder')} of frames, read at {rate:g} frames a second "
            "(--frames-per-second)"
        )
    return notes


def split_table(rows: ClipRows, spec: DatasetSpec | None) -> str:
    """The number of clips with and without a video in each split."""
    found = Counter(clip.split for clip in rows.clips)
    missing = Counter(split for _, _, split in rows.missing)
    lines = [f"  {'split':12}{'clips':>9}{'missing':>9}"]
    for split in SPLITS:
        if found[split] or missing[split]:
            is_reported = spec is not None and spec.reported_split == split
            mark = "  (the reported one)" if is_reported else ""
            lines.append(f"  {split:12}{found[split]:9}{missing[split]:9}{mark}")
    lines.append(f"  {'all':12}{len(rows.clips):9}{len(rows.missing):9}")
    if rows.doubles:
        clip_id, paths = next(iter(rows.doubles.items()))
        several = counted(len(rows.doubles), "clip")
        lines.append(f"  {several} with several files; {clip_id!r} is read from {paths[0]}")
    return "\n".join(lines)


def class_counts(annotations: Annotations) -> str:
    """The number of classes of each kind: `97 verb, 300 noun`."""
    classes = annotations.classes
    counts = {"label": classes.label, "verb": classes.verb, "noun": classes.noun}
    return ", ".join(f"{len(names)} {kind}" for kind, names in counts.items() if names) or "none"
