"""The table of the clips of a split, with the position of each clip in the shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.make_commands import make_around, make_boxes, make_flows, rebuild_advice
from shared.manifest import LABEL_KINDS, Clip, manifest_digest, read_manifest, row_digests
from shared.mirror import stored_address
from shared.progress import bar_options
from shared.shard_index import DatasetIndex, read_index
from shared.shards import ShardReader
from shared.track_window import TrackWindow
from shared.tracks import USUAL_LENGTH, USUAL_POINTS, HogLayout

NO_LABEL = -1
DEFAULT_BOXES = "default"  # the boxes in the folder boxes/; others are in boxes-<name>/
FLOW = "flow"  # the flow source in the folder flows/; others are in flows-<name>/


@dataclass(frozen=True)
class MotionNeeds:
    """The data that is needed from the flows shards.

    Attributes:
        source: the flow source: "flow" for flows/, another name for flows-<name>/.
        track_length: number of steps that tracks must have; 0 if no tracks are needed.
        track_points: number of points along the short side of a frame that tracks must start from.
        hog: the HOG that tracks must have; None for none.
        stabilised: whether camera motion must be removed (True) or kept (False); None accepts both.
        track_window: the windows at whose tubelets tracks must start; None for every frame.
    """

    source: str = FLOW
    track_length: int = 0
    track_points: int = 0
    hog: HogLayout | None = None
    stabilised: bool | None = None
    track_window: TrackWindow | None = None


@dataclass(frozen=True)
class ClipTable:
    """The clips of a split that are in the shards: n clips, one row per clip in each array.

    Clips that preprocessing set aside are not in the shards, and so not in the table.

    Attributes:
        frames_folder: folder of the frames shards.
        boxes_folder: folder of the boxes shards; None if no boxes are needed.
        motion_folder: folder of the flows shards; None if no motion is needed.
        shard_names: file names of the shards, the same in all folders.
        data_digest: identifies the content of the shards, for the record of a run.
        manifest_digest: sha256 of the manifest that the shards were made from.
        row_digests: digests of the manifest's rows of every split, as `row_digests` returns them.
        ids: S64 [n], ids of the clips.
        shard: int32 [n], position of the shard in shard_names.
        row: int32 [n], row in the per-clip datasets of the shard.
        frames: int64 [n, 2], rows first:last in the per-frame datasets of the shard.
        source_size, stored_size: int32 [n, 2], width and height in pixels of the source (boxes are
            in source pixels) and of the stored frames.
        labels: for each kind of label ("label", "verb", "noun") int64 [n]; -1 without a label.
    """

    frames_folder: Path
    boxes_folder: Path | None
    motion_folder: Path | None
    shard_names: tuple[str, ...]
    data_digest: str
    manifest_digest: str
    row_digests: dict[str, dict[str, str]]
    ids: np.ndarray
    shard: np.ndarray
    row: np.ndarray
    frames: np.ndarray
    source_size: np.ndarray
    stored_size: np.ndarray
    labels: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def clip_id(self, index: int) -> str:
        return self.ids[index].decode()

    def rows_of(self, split: str, kinds: Sequence[str] = ()) -> dict[str, str]:
        """The digests of the manifest's rows of a split: of its ids, and of these kinds of label.

        All rows of the split count, also those that are not in the table.
        """
        digests = self.row_digests.get(split, {})
        return {name: digests[name] for name in ("clips", *kinds) if name in digests}

    def take(self, chosen: np.ndarray) -> ClipTable:
        """The table with only the chosen clips; `chosen` is an index array or bool [n]."""
        labels = {kind: values[chosen] for kind, values in self.labels.items()}
        rows = {
            name: getattr(self, name)[chosen]
            for name in ("ids", "shard", "row", "frames", "source_size", "stored_size")
        }
        return replace(self, labels=labels, **rows)


def read_clip_table(
    layout: DatasetLayout,
    splits: Sequence[str],
    boxes: bool,
    motion: MotionNeeds | None = None,
    box_source: str = DEFAULT_BOXES,
) -> ClipTable:
    """Find the clips of `splits` in the shards of a dataset.

    Args:
        boxes: whether motion boxes are needed. They must hold the same clips as the frames.
        motion: the data that is needed from the flows shards; None for none. They must hold the
            same clips as the frames.
        box_source: the boxes: "default" for boxes/, another name for boxes-<name>/.

    Raises:
        InputError: there are no shards; they were made from another manifest; they do not hold the
            same clips as the frames, or not the necessary tracks; or there is no clip of these
            splits.
    """
    clips = {clip.clip_id: clip for clip in read_manifest(layout.manifest)}
    digest = manifest_digest(list(clips.values()))
    index = _read_index(layout.frames, "frames", layout.make("flows"), digest)
    companions: list[_Companion] = []
    if boxes:
        folder = layout.boxes if box_source == DEFAULT_BOXES else layout.boxes_of(box_source)
        companions.append(_Companion(folder, "boxes", make_boxes(layout, folder), digest, index))
    if motion is not None:
        folder = layout.flows if motion.source == FLOW else layout.flows_of(motion.source)
        companions.append(_Companion(folder, "flows", make_flows(layout, folder), digest, index))
        _check_tracks(layout, companions[-1], motion)
        _check_stabilised(layout, companions[-1], motion)
    parts, found = [], []
    shards = tqdm(index.shards, "finding clips", unit="shard", leave=False, **bar_options(delay=1))
    for number, entry in enumerate(shards):
        arrays = _read_head(layout.frames, entry.name, entry.bytes, "frames")
        for other in companions:
            other.check_clips(number, arrays)
        rows, chosen = _rows_of_splits(arrays["/clip/id"], clips, splits, layout, entry.name)
        places = np.full(len(rows), number, np.int32), np.array(rows, dtype=np.int32)
        parts.append((*places, *(values[rows] for values in arrays.values())))
        found.extend(chosen)
    if not found:
        raise InputError(
            "empty",
            f"{layout.manifest} has no clip of split {' or '.join(splits)} with frames in "
            f"{layout.frames}; `{layout.make('report')}` shows the clips of each split",
        )
    shard, row, ids, frames, source_size, stored_size = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    labels = {
        kind: np.array([_label(clip, kind) for clip in found], dtype=np.int64)
        for kind in LABEL_KINDS
    }
    return ClipTable(
        frames_folder=layout.frames,
        boxes_folder=companions[0].folder if boxes else None,
        motion_folder=None if motion is None else companions[-1].folder,
        shard_names=tuple(entry.name for entry in index.shards),
        data_digest="+".join(each.digest[:16] for each in (index, *(o.index for o in companions))),
        manifest_digest=digest,
        row_digests=row_digests(clips.values()),
        ids=ids,
        shard=shard,
        row=row,
        frames=frames,
        source_size=source_size,
        stored_size=stored_size,
        labels=labels,
    )


class _Companion:
    """Boxes or flows shards, which must hold the same clips as the frames shards.

    Args:
        folder, kind: folder and kind of the shards.
        goal: the command that makes them, for messages.
        digest: digest of the manifest.
        frames: index of the frames shards.
    """

    def __init__(
        self, folder: Path, kind: str, goal: str, digest: str, frames: DatasetIndex
    ) -> None:
        self.folder, self.kind, self.goal = folder, kind, goal
        self.index = _read_index(folder, kind, goal, digest)
        expected, found = (
            [(entry.name, entry.clips) for entry in each.shards] for each in (frames, self.index)
        )
        if found != expected:
            raise InputError(
                "other-clips",
                f"{folder} ({self.index.num_clips} clips) and the frames ({frames.num_clips} "
                f"clips) do not hold the same clips; run `{goal}` again",
            )

    def check_clips(self, number: int, frames: dict[str, np.ndarray]) -> None:
        """Refuse shard `number` if it does not hold the clips of the frames shard."""
        entry = self.index.shards[number]
        head = _read_head(self.folder, entry.name, entry.bytes, self.kind)
        for path in ("/clip/id", "/clip/frames"):
            if not np.array_equal(frames[path], head[path]):
                raise InputError(
                    "other-clips",
                    f"{self.folder / entry.name} and the frames do not hold the same clips "
                    f"({path}); run `{self.goal}` again",
                )


def _check_tracks(layout: DatasetLayout, flows: _Companion, motion: MotionNeeds) -> None:
    length, points, cell = (
        flows.index.config.get(f"track_{name}", 0) for name in ("length", "points", "cell")
    )
    few = points < motion.track_points
    stored = HogLayout.of_attributes(flows.index.config) if cell else None
    window, wanted_window = flows.index.config.get("track_window", ""), motion.track_window
    other = bool(motion.track_length and window and window != str(wanted_window))
    if length < motion.track_length or few or motion.hog not in (None, stored) or other:
        if not length:
            found = "no tracks"
        elif length < motion.track_length:
            found = f"tracks of {length} steps, and {motion.track_length} are needed"
        elif few:
            found = (
                f"tracks from {points} points along the short side, and {motion.track_points} are "
                "needed so that each point of a patch has its own track in the smallest crop"
            )
        elif motion.hog is not None and stored is None:
            found = "tracks without HOG"
        elif motion.hog not in (None, stored):
            found = f"tracks with HOG of {stored}, and the recipe predicts HOG of {motion.hog}"
        else:
            needed = wanted_window or "every frame"
            found = f"tracks that start at the tubelets of {window}, and {needed} is needed"
        wanted = _track_options(motion)
        if motion.track_length > USUAL_LENGTH:
            wanted += f" --track-length {motion.track_length}"
        if motion.track_points > USUAL_POINTS:
            wanted += f" --track-points {motion.track_points}"
        if motion.hog is not None and motion.hog.channels != HogLayout.channels:
            wanted += f" --track-channels {motion.hog.channels}"
        if motion.hog is not None and motion.hog.cells != HogLayout.cells:
            wanted += f" --track-cells {motion.hog.cells}"
        made = layout.make("flows", f"{wanted} --overwrite")
        raise InputError("missing-data", f"{flows.folder} holds {found}; make them with `{made}`")


def _track_options(motion: MotionNeeds) -> str:
    """The options of `flows` for tracks that start where they are needed."""
    window = motion.track_window
    return "--trajectories" + ("" if window is None else f" --track-window {window}")


def _check_stabilised(layout: DatasetLayout, flows: _Companion, motion: MotionNeeds) -> None:
    made = flows.index.config.get("stabilise", "off")
    if motion.stabilised not in (None, made != "off"):
        # MME warps (App. A); velocities, which are tracks of one step, subtract.
        removed = "subtract" if motion.track_length == 1 else "warp"
        wanted = removed if motion.stabilised else "off"
        tracks = f"{_track_options(motion)} --stabilise {wanted}"
        command = layout.make("flows", f"{tracks} --overwrite")
        raise InputError(
            "missing-data",
            f"{flows.folder} was made with --stabilise {made}, and the recipe has stabilised = "
            f"{str(motion.stabilised).lower()}; make it with `{command}`, in another OUT to keep "
            "both",
        )


def _read_index(folder: Path, kind: str, goal: str, digest: str) -> DatasetIndex:
    index = read_index(folder)
    if index is None:
        raise InputError(
            "not-finished", f"there are no {kind} in {folder}; make them with `{goal}`"
        )
    if index.kind != kind:
        raise InputError(
            "other-kind", f"{folder} holds {index.kind}, not {kind}; make them with `{goal}`"
        )
    if index.manifest_digest != digest:
        raise InputError(
            "other-manifest",
            f"{folder} was made of manifest {index.manifest_digest[:12]}, and the manifest is now "
            f"{digest[:12]}: clips were added, removed or cut anew; {rebuild_advice(folder)}",
        )
    return index


def _read_head(folder: Path, name: str, num_bytes: int, kind: str) -> dict[str, np.ndarray]:
    path = folder / name
    if path.is_file() and path.stat().st_size != num_bytes:
        raise InputError(
            "damaged-file",
            f"{path} has {path.stat().st_size} bytes, and dataset.json says {num_bytes}; "
            f"{make_around(folder, 'verify')} lists damaged shards",
        )
    try:
        return _open_head(path, kind, partly=True)
    except InputError as error:
        # What came over a network may be at fault. A whole shard is compared with its sha256.
        if error.code != "damaged-file" or stored_address(path) is None:
            raise
        return _open_head(path, kind, partly=False)


def _open_head(path: Path, kind: str, partly: bool) -> dict[str, np.ndarray]:
    paths = ["/clip/id", "/clip/frames", "/clip/size"]
    with ShardReader(path, kind, partly) as reader:
        if kind == "frames":
            paths.append("/clip/stored_size")
        arrays = {each: reader[each] for each in paths}
        first, last = arrays["/clip/frames"].T
        if np.any(first < 0) or np.any(last <= first) or np.any(last > reader.num_frames):
            raise InputError(
                "damaged-file",
                f"{path}: the rows of a clip are outside of the shard; make the shards again",
            )
    return arrays


def _rows_of_splits(
    ids: np.ndarray,
    clips: dict[str, Clip],
    splits: Sequence[str],
    layout: DatasetLayout,
    shard_name: str,
) -> tuple[list[int], list[Clip]]:
    rows, chosen = [], []
    for row, clip_id in enumerate(ids):
        clip = clips.get(clip_id.decode())
        if clip is None:
            raise InputError(
                "other-manifest",
                f"{layout.frames / shard_name}: clip {clip_id.decode()!r} is not in the manifest",
            )
        if clip.split in splits:
            rows.append(row)
            chosen.append(clip)
    return rows, chosen


def _label(clip: Clip, kind: str) -> int:
    label = getattr(clip, kind)
    return NO_LABEL if label is None else label
