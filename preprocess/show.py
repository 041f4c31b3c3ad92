"""Draw the motion of videos: an annotated video and a contact sheet of each.

    python -m preprocess.show video.mp4 other.webm --to out/show

writes out/show/video-motion.mp4 and out/show/video-motion.png. They show the frames with contours
and motion box, the flow in colours, the motion map, and the patches that the mask of each method
leaves visible. --light draws on white, and --sheet pdf makes a contact sheet for papers. The
command needs only the videos. It takes some seconds for a clip of four seconds.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from tqdm import tqdm

from preprocess.annotated_boxes.formats import FORMATS
from preprocess.annotated_boxes.matching import ClipFrames
from preprocess.drawing.boxes import annotated_boxes, stored_boxes
from preprocess.drawing.frames import DARK, LIGHT
from preprocess.drawing.masks import MaskOptions, draw_masks
from preprocess.drawing.panels import FoundMotion, contact_sheet, encode_mp4, video_frames
from preprocess.flow.boundaries import boundary_map, window_sums
from preprocess.flow.motion_maps import motion_map, reduce_maps
from preprocess.flow.residual import residual_lengths
from preprocess.flow.tvl1 import PRESETS as FLOW_PRESETS
from preprocess.flow.tvl1 import tvl1_flow
from preprocess.flow_run.decode_step import grey_frames, jpeg_frames
from preprocess.flow_run.messages import WorkerOptions
from preprocess.motion_boxes.boxes import motion_boxes
from preprocess.motion_boxes.evidence import texture_maps
from preprocess.motion_boxes.moving import moving_areas
from preprocess.motion_boxes.presets import OF_BOUNDARIES, PRESETS
from preprocess.running.options import former_name
from preprocess.video.decode import decode_clip
from preprocess.video.errors import ClipError
from preprocess.video.frame_chunks import DecodeOptions, scaled_size
from shared.decoder_masks import DECODER_MASKS
from shared.errors import EXIT_SET_ASIDE, InputError, user_errors
from shared.files import write_atomically
from shared.grid import canonical_view
from shared.manifest import FOLDER_END, Clip
from shared.motion_maps import compand, expand
from shared.progress import bar_options
from shared.scene import INSIDES

FOLDER = click.Path(path_type=Path)
FLOW_BATCH = 8  # pairs of frames that a thread computes at a time


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.argument("videos", nargs=-1, required=True, type=FOLDER)
# What is written
@click.option(
    "--to",
    default="out/show",
    metavar="FOLDER",
    type=FOLDER,
    help="Folder for the results, VIDEO-motion.mp4 and VIDEO-motion.png.",
)
@click.option(
    "--sheet",
    "suffix",
    default="png",
    type=click.Choice(["png", "svg", "pdf"]),
    help="Kind of file of the contact sheet. SVG and PDF have sharp text, for papers and slides.",
)
@click.option(
    "--light",
    is_flag=True,
    help="Draw on a white background instead of a dark one.",
)
@click.option(
    "--flow-scale",
    default=0.0,
    metavar="PIXELS",
    type=click.FloatRange(min=0),
    help="Length of the flow, in pixels per frame at the size at which flow is computed, that has "
    "full colour. Give it to compare the colours of several videos.",
    show_default="the 98th percentile of each video",
)
@click.option(
    "--seconds",
    default=20.0,
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    help="Length of the part of a video that is drawn, in seconds from its start.",
)
# How motion is found
@click.option(
    "--preset",
    "flow_preset",
    default="fast",
    type=click.Choice(list(FLOW_PRESETS)),
    help="Parameter preset of TV-L1 flow.",
)
@click.option(
    "--motion-preset",
    default="default",
    type=click.Choice(list(PRESETS)),
    help="Parameter preset of the motion boxes.",
)
# Which masks are drawn, and what they hide
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="Draw only the mask of this pretraining method, such as mofo. May be repeated.",
    show_default="all methods",
)
@click.option(
    "--mask-ratio",
    metavar="SHARE",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of all patches that each method hides.",
    show_default="the recipe of each method",
)
@click.option(
    "--inside-ratio",
    metavar="SHARE",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the patches in the motion box that the method mofo hides.",
    show_default="the recipe of mofo",
)
@click.option(
    "--inside",
    type=click.Choice(INSIDES),
    help="What is inside for the mask of the method mofo: the motion box, or the positions that "
    "move.",
    show_default="the recipe of mofo",
)
@click.option(
    "--decoder-mask",
    type=click.Choice(list(DECODER_MASKS)),
    help="Which of the hidden patches each method decodes. Patches that are left out are darker.",
    show_default="the recipe of each method",
)
@click.option(
    "--stride",
    default=2,
    metavar="FRAMES",
    type=click.IntRange(min=1),
    help="Distance between consecutive frames of a 16-frame clip, in frames of the video.",
)
# What is drawn beside it
@click.option(
    "--boxes",
    metavar="FOLDER",
    type=FOLDER,
    help="Also draw, in pink, the boxes of this folder of shards, such as out/ssv2/boxes.",
)
@click.option(
    "--annotations",
    metavar="PATH",
    type=FOLDER,
    help="Also draw, in green, the annotated boxes of this file or folder of files.",
)
@click.option(
    "--format",
    "box_format",
    type=click.Choice(list(FORMATS)),
    help="Format of the files of --annotations.",
    show_default="something-else for .json, else csv",
)
@user_errors
@former_name("--out", "--to", "to", type=FOLDER)
@former_name("--flow", "--preset", "flow_preset", type=click.Choice(list(FLOW_PRESETS)))
@former_name("--motion", "--motion-preset", "motion_preset", type=click.Choice(list(PRESETS)))
def main(
    videos: tuple[Path, ...],
    to: Path,
    suffix: str,
    light: bool,
    flow_scale: float,
    seconds: float,
    flow_preset: str,
    motion_preset: str,
    methods: tuple[str, ...],
    mask_ratio: float | None,
    inside_ratio: float | None,
    inside: str | None,
    decoder_mask: str | None,
    stride: int,
    boxes: Path | None,
    annotations: Path | None,
    box_format: str | None,
) -> None:
    """Draw the motion of each VIDEO: an annotated mp4 and a contact sheet.

    \b
    The panels show: the frame with contours (blue) and motion box (orange); the flow in colours,
    with a colour wheel as key; the motion map; and for each method the patches that its mask leaves
    visible. Each group of 16 frames, a stride apart, has masks of its own, which depend on the
    motion of the group.
    """
    if box_format is not None and annotations is None:
        raise InputError(
            "option-needs-another", "--format has an effect only with --annotations; give both"
        )
    masks = MaskOptions(mask_ratio, inside_ratio, methods, decoder_mask, inside)
    names, ground = output_names(videos, to), LIGHT if light else DARK
    missing = [str(video) for video in videos if not video.exists()]
    if missing:
        raise InputError("missing-file", f"no file {', '.join(missing)}")
    set_aside = 0
    for video, name in zip(videos, names, strict=True):
        try:
            found = find_motion(video, seconds, flow_preset, motion_preset, masks, stride)
            if flow_scale > 0:
                found = replace(found, longest_flow=flow_scale)
            if boxes is not None:
                found = replace(found, stored=stored_boxes(boxes, video, found.pts_seconds))
            if annotations is not None:
                clip = ClipFrames(video.stem, found.source_size, found.pts_seconds)
                known = box_format or _format_of(annotations)
                found = replace(found, annotated=annotated_boxes(known, annotations, clip))
        except ClipError as error:
            print(f"{video}: {error}", file=sys.stderr)
            set_aside += 1
            continue
        drawn, total = video_frames(found, ground), len(found.frames)
        frames = tqdm(drawn, name, total, unit="frame", leave=False, **bar_options())
        write_atomically(to / f"{name}.mp4", encode_mp4(frames, found.frames_per_second))
        write_atomically(to / f"{name}.{suffix}", contact_sheet(found, ground).file(suffix))
        print(f"{to / name}.mp4\n{to / name}.{suffix}")
    if set_aside:
        sys.exit(EXIT_SET_ASIDE)


def output_names(videos: tuple[Path, ...], to: Path) -> list[str]:
    """The names of the outputs: `clip-motion` for clip.mp4, numbered if two videos share a name.

    Raises:
        InputError: an output would replace one of the videos.
    """
    names: list[str] = []
    for video in videos:
        name, number = f"{video.stem}-motion", 2
        while name in names:
            name, number = f"{video.stem}-motion-{number}", number + 1
        if (to / f"{name}.mp4").resolve() in [each.resolve() for each in videos]:
            raise InputError(
                "existing-output",
                f"{to / name}.mp4 would replace one of the videos; give another --to",
            )
        names.append(name)
    return names


def find_motion(
    video: Path,
    seconds: float,
    flow_preset: str,
    motion_preset: str,
    mask_options: MaskOptions,
    stride: int = 2,
) -> FoundMotion:
    """Decode the start of a video, and find its motion as `flows` and `boxes` do by default.

    Args:
        video: the video.
        seconds: length of the part that is decoded.
        flow_preset: preset of TV-L1.
        motion_preset: preset of the motion boxes.
        mask_options: which masks are drawn, and what they hide.
        stride: frames of the video between two frames of a clip.

    Raises:
        ClipError: the video cannot be used.
    """
    options = WorkerOptions(video.parent)
    name = video.name + FOLDER_END * video.is_dir()  # a folder of frames
    clip = Clip("shown", name, stop_seconds=seconds)
    chunks = list(decode_clip(clip, options.video_root, DecodeOptions()))
    frames = np.concatenate([chunk.rgb for chunk in chunks])
    source_size = chunks[0].source_size
    flow, maps, residual = _flow_and_maps(
        frames, flow_preset, motion_preset in OF_BOUNDARIES, options
    )
    size = (maps.shape[1], maps.shape[2])
    # Texture is computed from JPEG frames, as `boxes` does.
    jpegs = jpeg_frames(frames, options.jpeg_quality)
    grey = [cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE) for jpeg in jpegs]
    textures = texture_maps(np.stack([picture for picture in grey if picture is not None]), size)
    parameters = PRESETS[motion_preset]
    boxes, score, contours = motion_boxes(maps, parameters, textures, residual)
    areas = moving_areas(contours, boxes, size)
    to_source = np.array(source_size) / np.array(maps.shape[:0:-1])
    boxes = (boxes * np.tile(to_source, 2)).astype(np.float32)
    view = canonical_view(*source_size)
    return FoundMotion(
        name=video.name,
        source_size=source_size,
        pts_seconds=np.concatenate([chunk.pts_seconds for chunk in chunks]),
        frames=frames,
        flow=flow,
        maps=maps,
        contours=contours,
        boxes=boxes,
        score=score,
        view=view,
        masks=draw_masks(
            video.name, boxes, maps, view, source_size, mask_options, stride, flow, areas
        ),
    )


def _format_of(annotations: Path) -> str:
    return "something-else" if annotations.suffix == ".json" else "csv"


def _flow_and_maps(
    frames: np.ndarray, preset: str, of_boundaries: bool, options: WorkerOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of frames uint8 [T, H, W, 3]: flow float32 [T, 2, h, w], motion maps float32 [T, m, n], and
    residual lengths of the same size.

    Both are companded and expanded, so that the boxes equal those made from shards.
    """
    grey = grey_frames(frames, options.flow_short_side)
    map_width, map_height = scaled_size(grey.shape[2], grey.shape[1], options.map_short_side)
    firsts = range(0, len(grey) - 1, FLOW_BATCH)

    def solve(first: int) -> torch.Tensor:
        batch = torch.from_numpy(grey[first : first + FLOW_BATCH + 1])
        return tvl1_flow(batch[:-1], batch[1:], preset)

    def maps_of(first: int) -> torch.Tensor:
        some = range(first, min(first + FLOW_BATCH, len(flows)))
        if of_boundaries:
            maps = boundary_map(window_sums(flows, 0, some))
        else:
            maps = motion_map(flows[some.start : some.stop])
        return reduce_maps(maps, (map_height, map_width))

    def residual_of(first: int) -> np.ndarray:
        return residual_lengths(flows[first : first + FLOW_BATCH], (map_height, map_width))

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # the solver releases Python's lock
        solved = threads.map(solve, firsts)
        flows = torch.cat(list(tqdm(solved, "flow", len(firsts), leave=False, **bar_options())))
        maps = torch.cat(list(threads.map(maps_of, firsts))).numpy()
        residual = np.concatenate(list(threads.map(residual_of, firsts)))
    flow, maps, residual = (
        np.concatenate([each, each[-1:]])
        for each in (flows.numpy(), expand(*compand(maps)), expand(*compand(residual)))
    )
    return flow, maps, residual


if __name__ == "__main__":
    main()
