"""Stand-ins for real datasets: rendered videos beside annotation files in the official layout."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

from video_fixtures import render_video

NUM_CLIPS = 12
OWN_CLIPS = 40  # four fifths of them are trained on: a batch of the recipe `small`


def write_stand_ins(data: Path) -> None:
    """`data` as the pages have /data: ssv2/ and epic100/ as downloaded, videos/ by class."""
    write_ssv2(data / "ssv2")
    write_epic100(data / "epic100")
    for number in range(OWN_CLIPS):
        video = data / "videos" / ("left", "right")[number % 2] / f"{number}.mp4"
        if number < NUM_CLIPS:
            _video(video, number)
        else:  # a copy is as good as one more rendering
            shutil.copy(video.with_name(f"{number % NUM_CLIPS}.mp4"), video)


def write_ssv2(folder: Path) -> None:
    """Something-Something V2: labels, JSON lists by split, a .webm a clip."""
    templates = ["Holding [something]", "Approaching [something] with your camera"]
    names = [template.replace("[", "").replace("]", "") for template in templates]
    labels = folder / "labels"
    labels.mkdir(parents=True)
    listed = {name: str(number) for number, name in enumerate(names)}
    (labels / "something-something-v2-labels.json").write_text(json.dumps(listed))
    for split, clips in (("train", range(NUM_CLIPS)), ("validation", range(NUM_CLIPS, 16))):
        entries = [{"id": str(i), "template": templates[i % 2]} for i in clips]
        (labels / f"something-something-v2-{split}.json").write_text(json.dumps(entries))
        for number in clips:
            _video(folder / "videos" / f"{number}.webm", number, codec="libvpx-vp9")


def write_epic100(folder: Path) -> None:
    """EPIC-KITCHENS-100: class lists, segments by timestamps of two long videos."""
    labels = folder / "labels"
    labels.mkdir(parents=True)
    for name, keys in (("verb_classes", ["take", "put"]), ("noun_classes_v2", ["tap", "spoon"])):
        rows = [[i, key, f"['{key}']", "any"] for i, key in enumerate(keys)]
        _csv(labels / f"EPIC_100_{name}.csv", ["id", "key", "instances", "category"], rows)
    columns = [
        "narration_id",
        "video_id",
        "start_timestamp",
        "stop_timestamp",
        "verb_class",
        "noun_class",
    ]
    for split, video, count in (("train", "P01_01", NUM_CLIPS), ("validation", "P02_01", 4)):
        rows = [
            [
                f"{video}_{i}",
                video,
                f"00:00:{2 * i:02d}.00",
                f"00:00:{2 * i + 2:02d}.00",
                i % 2,
                i % 2,
            ]
            for i in range(count)
        ]
        _csv(labels / f"EPIC_100_{split}.csv", columns, rows)
        frames = 2 * 12 * count + 12
        render_video(folder / "videos" / "P01" / f"{video}.MP4", frames, size=(64, 64))


def _video(path: Path, number: int, codec: str = "libx264") -> None:
    render_video(path, 18 + number % 3, size=(64, 64), codec=codec)


def _csv(path: Path, columns: list[str], rows: list[list]) -> None:
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
