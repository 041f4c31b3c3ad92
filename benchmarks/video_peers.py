"""Peers of the loader benchmark: decode training clips from videos, as VideoMAE's loader does.

Each peer opens the video every time, as a loader of thousands of videos must. It decodes on one
thread and returns the chosen frames, RGB uint8 [T, H, W, 3]. Peers that cannot be used are reported
with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from train.clips.view_rules import multi_scale

Choose = Callable[[int], np.ndarray]
"""Takes the number of frames of a clip and returns the frame numbers int64 [T] to decode."""
Decode = Callable[[Path, Choose], np.ndarray]


def pyav(path: Path, choose: Choose) -> np.ndarray:
    """Decode with PyAV from the start until all chosen frames are decoded."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        # WebM files do not state the number of frames.
        seconds = float((stream.duration or 0) * (stream.time_base or 0))
        seconds = seconds or (container.duration or 0) / 1e6
        wanted = choose(stream.frames or round(seconds * float(stream.average_rate or 0)))
        last, found = int(wanted.max()), {}
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number == last:
                break
    final = found[max(found)]
    return np.stack([found.get(int(number), final) for number in wanted])


def available(video: Path) -> tuple[dict[str, Decode], dict[str, str]]:
    """The peers that can decode a video on this machine, and why the others cannot."""
    peers: dict[str, Decode] = {"PyAV": pyav}
    missing: dict[str, str] = {}
    for name, make in (("decord", _decord), ("torchcodec", _torchcodec)):
        try:
            decode = make()
            decode(
                video, lambda _: np.zeros(1, np.int64)
            )  # some peers load their libraries only here
            peers[name] = decode
        except ImportError:
            missing[name] = "not installed"
        except (OSError, RuntimeError) as error:
            missing[name] = f"does not load: {str(error).strip().splitlines()[0]}"
    return peers, missing


def _decord() -> Decode:
    import decord

    def decode(path: Path, choose: Choose) -> np.ndarray:
        reader = decord.VideoReader(str(path), num_threads=1, ctx=decord.cpu(0))
        return reader.get_batch(choose(len(reader))).asnumpy()

    return decode


def _torchcodec() -> Decode:
    from torchcodec.decoders import VideoDecoder

    def decode(path: Path, choose: Choose) -> np.ndarray:
        reader = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
        frames = reader.get_frames_at([int(number) for number in choose(len(reader))])
        return frames.data.numpy()

    return decode


def pillow_transform(
    frames: np.ndarray, scales: tuple[float, ...], size: int, rng: np.random.Generator
) -> torch.Tensor:
    """VideoMAE's transforms from frames to a clip float32 [1, 3, T, S, S]: Pillow, frame by frame.

    Multi-scale crop, bilinear resize, floats in 0..1, ImageNet's mean and deviation.
    """
    height, width = frames.shape[1:3]
    crop = multi_scale(width, height, rng, scales=scales)
    pictures = [
        Image.fromarray(frame).crop(crop).resize((size, size), Image.Resampling.BILINEAR)
        for frame in frames
    ]
    joined = np.concatenate([np.asarray(picture) for picture in pictures], axis=2)
    clip = torch.from_numpy(joined).permute(2, 0, 1).contiguous().float().div(255)
    clip = clip.view(len(frames), 3, size, size).transpose(0, 1)
    mean, deviation = (
        torch.tensor(values).view(3, 1, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return clip.sub_(mean).div_(deviation)[None]
