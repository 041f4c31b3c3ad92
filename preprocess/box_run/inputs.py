"""Chooses what boxes are made from: the motion maps of a flow source, or annotated boxes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from preprocess.annotated_boxes.formats import FORMATS, annotation_files, open_annotations
from preprocess.annotated_boxes.matching import ReadOptions
from preprocess.box_run.maps_folder import maps_folder
from preprocess.box_run.shards import FromAnnotations, FromMotion, ShardBuilder
from preprocess.motion_boxes.presets import MotionParameters, read_parameters
from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.progress import bar_options
from shared.shard_index import DatasetIndex, read_index
from shared.shards import ShardReader

MOTION_OPTIONS = ("source", "preset", "changes", "workers")
ANNOTATION_OPTIONS = ("box_format", "min_score", "annotation_fps")


@dataclass(frozen=True)
class BoxInputs:
    """The shards that boxes are made from, and how boxes are made from them.

    Attributes:
        what: description of the inputs for the screen.
        folder: folder of the shards that are read. One boxes shard is written for each.
        clips: index of that folder.
        config: all options and digests that decide the content of the boxes.
        parallel: whether several processes may make shards.
        make_builder: returns the ShardBuilder. It reads the annotations, so it is called only if a
            shard must be made.
        pictures: index of the frames that texture is computed from, unless `clips` is that index.
    """

    what: str
    folder: Path
    clips: DatasetIndex
    config: dict[str, Any]
    parallel: bool
    make_builder: Callable[[], ShardBuilder]
    pictures: DatasetIndex | None = None

    def shard_config(self, number: int) -> dict[str, Any]:
        """The config that a shard stores, with the sha256 of the shards that it is made from."""
        indexes = [self.clips] if self.pictures is None else [self.clips, self.pictures]
        return self.config | {index.kind: index.shards[number].sha256 for index in indexes}


def read_inputs(layout: DatasetLayout, options: dict[str, Any]) -> BoxInputs:
    """Find the inputs that the options of the command ask for.

    Raises:
        InputError: options exclude each other, or the inputs do not exist.
    """
    _refuse_unused(options)
    if options["from_annotations"] is not None:
        return _inputs_of_annotations(layout, options)
    return _inputs_of_motion(layout, options)


def _refuse_unused(options: dict[str, Any]) -> None:
    """Refuse options of motion maps beside --from-annotations, and of annotations without it."""
    annotated = options["from_annotations"] is not None
    names = {"changes": "set", "box_format": "format", "preset": "motion-preset"}
    for option in MOTION_OPTIONS if annotated else ANNOTATION_OPTIONS:
        if options[option] not in (None, ()):
            name = names.get(option, option).replace("_", "-")
            if annotated:
                raise InputError(
                    "option-conflict",
                    f"--{name} cannot be combined with --from-annotations; leave one of them out",
                )
            raise InputError(
                "option-needs-another",
                f"--{name} has an effect only with --from-annotations; give both, or leave it out",
            )
    if annotated and options["box_format"] is None:
        raise InputError(
            "option-needs-another",
            f"--from-annotations needs --format with one of {', '.join(FORMATS)}",
        )


def _inputs_of_motion(layout: DatasetLayout, options: dict[str, Any]) -> BoxInputs:
    preset, source = options["preset"] or "default", options["source"]
    parameters = read_parameters(preset, options["changes"])
    return motion_inputs(layout, maps_folder(layout, source, preset), parameters)


def motion_inputs(layout: DatasetLayout, folder: Path, parameters: MotionParameters) -> BoxInputs:
    """The inputs of boxes that are made from the motion maps of finished flows.

    Raises:
        InputError: the parameters use texture, and frames/ is not complete.
    """
    flows = read_index(folder)
    assert flows is not None, folder
    config = asdict(parameters) | {"flows": flows.digest} | made_from(folder)
    frames_folder = frames = None
    if parameters.texture:
        frames = read_index(layout.frames)
        if frames is None:
            raise InputError(
                "not-finished",
                f"{layout.frames} is not complete (no dataset.json), but texture is computed from "
                f"its frames; run `{layout.make('flows')}`, or give --set texture=0",
            )
        frames_folder, config["frames"] = layout.frames, frames.digest
    what = f"motion maps of {folder}"
    if parameters.residual:
        what = f"residual lengths of {folder}"
        if "residual" not in flows.config:
            what = f"motion maps of {folder}, which has no residual lengths"
    return BoxInputs(
        what, folder, flows, config, True, lambda: FromMotion(parameters, frames_folder), frames
    )


def made_from(folder: Path) -> dict[str, str]:
    """The config entry that names the folder that boxes are made from; no entry for flows/."""
    return {} if folder.name == "flows" else {"made_from": folder.name}


def source_of(config: dict[str, Any]) -> tuple[str, str]:
    """(folder name, kind) of the shards that boxes with this config were made from."""
    folder = str(config.get("made_from", "flows"))
    return folder, "frames" if folder == "frames" else "flows"


def sources_of(config: dict[str, Any]) -> dict[str, str]:
    """The folder of each kind of shards whose digest is recorded in the config of boxes.

    Boxes from motion maps are also made from frames/ where texture counts.
    """
    folder, kind = source_of(config)
    return {kind: folder} | ({"frames": "frames"} if "frames" in config else {})


def _inputs_of_annotations(layout: DatasetLayout, options: dict[str, Any]) -> BoxInputs:
    """The inputs of boxes that are read from annotation files, for the clips of frames/."""
    frames = read_index(layout.frames)
    if frames is None:
        raise InputError(
            "not-finished",
            f"{layout.frames} is not complete (no dataset.json); run `{layout.make('flows')}`",
        )
    path, box_format = options["from_annotations"], options["box_format"]
    given = ReadOptions(options["min_score"], options["annotation_fps"])
    config = {
        "annotations": _files_digest(annotation_files(box_format, path)),
        "format": box_format,
        "min_score": given.min_score,
        "annotation_fps": given.rate,
        "frames": frames.digest,
    } | made_from(layout.frames)

    def make_builder() -> FromAnnotations:
        clip_ids: set[str] = set()
        for shard in frames.shards:
            with ShardReader(layout.frames / shard.name, "frames") as reader:
                clip_ids.update(reader.clip_ids())
        annotations = open_annotations(box_format, path, frozenset(clip_ids), given)
        known = sum(annotations.name_of(clip_id) is not None for clip_id in clip_ids)
        if not known:
            raise InputError(
                "no-match",
                f"no clip of {layout.frames} is annotated in {path}: the clips here are "
                f"{min(clip_ids, default='none')}, ..., and the annotated ones are "
                f"{annotations.examples}",
            )
        print(f"  {known} of {len(clip_ids)} clips are annotated")
        return FromAnnotations(annotations)

    # One process: annotations are large, and each process would read them again.
    what = f"annotated boxes of {path}"
    return BoxInputs(what, layout.frames, frames, config, False, make_builder)


def _files_digest(files: list[Path]) -> str:
    """The sha256 over the names and contents of files."""
    hashed = hashlib.sha256()
    for file in tqdm(
        files, "hashing annotations", unit="file", leave=False, **bar_options(delay=1)
    ):
        with open(file, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        hashed.update(f"{file.name} {content}\n".encode())
    return hashed.hexdigest()
