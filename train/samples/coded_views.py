"""Views as JPEG files and geometry: what readers hand over when the device decodes the frames.

A message takes the place of "pixels" in a sample, and samples are joined like all others:

    jpegs         uint8 [bytes]   the JPEG files of the frames, one after another
    jpeg_bytes    int64 [K]       the length of each file
    view_frames   int64 [R, T]    which of the frames of its clip a view shows, in its order
    view_cuts     int64 [R, 8]    crop x1, y1, x2, y2 in pixels of the stored frame, flip_x, flip_y,
                                  output pixels a side, reduction of the frames
    clip_counts   int64 [1, 2]    the number of frames and of views of the clip

Letters: K frames of a clip, R views of it, T frames of a view, B views of a batch, S output pixels.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from shared.errors import InputError
from train.options.config import LoaderConfig
from train.samples.torch_cut import cut_frames, reduce_frames
from train.samples.views import ClipView, StoredClip, jpeg_reduction

CODED = ("jpegs", "jpeg_bytes", "view_frames", "view_cuts", "clip_counts")
FRAMES_PER_CALL = 1024  # 360 MB of frames of 455 x 256 pixels


def coded_views(clip: StoredClip, views: list[ClipView]) -> dict[str, Tensor]:
    """The message of the views of a clip. Each frame is in it once."""
    size = clip.model.image_size
    reduction = min(jpeg_reduction(view.crop, size) for view in views)
    shown = np.stack([view.frames for view in views])
    chosen, numbers = np.unique(shown, return_inverse=True)
    files = clip.reader.jpegs(clip.index, chosen)
    cuts = [(*view.crop, view.flip_x, view.flip_y, size, reduction) for view in views]
    return {
        "jpegs": torch.from_numpy(np.concatenate(files)),
        "jpeg_bytes": torch.tensor([len(file) for file in files]),
        "view_frames": torch.from_numpy(numbers.reshape(shown.shape)),
        "view_cuts": torch.tensor(cuts, dtype=torch.int64),
        "clip_counts": torch.tensor([[len(files), len(views)]]),
    }


def decode_views(batch: dict[str, Tensor], device: torch.device) -> Tensor:
    """Decode and cut the views of a batch on the device; returns pixels uint8 [B, T, S, S, 3].

    Args:
        batch: the entries CODED of a batch, on the CPU.

    Raises:
        InputError: a frame cannot be decoded.
    """
    cuts, shown = batch["view_cuts"].tolist(), batch["view_frames"].to(device, non_blocking=True)
    size = cuts[0][6]
    pixels = torch.empty((*shown.shape, 3, size, size), dtype=torch.uint8, device=device)
    files = list(batch["jpegs"].split(batch["jpeg_bytes"].tolist()))
    counts = batch["clip_counts"].tolist()
    first_file, first_view = 0, 0
    for group in _groups([num_frames for num_frames, _ in counts]):
        num_files = sum(counts[clip][0] for clip in group)
        decoded = _decode(files[first_file : first_file + num_files], device)
        first_file += num_files
        for clip in group:
            num_frames, num_views = counts[clip]
            frames = _stack(decoded[:num_frames])
            del decoded[:num_frames]
            frames = reduce_frames(frames, cuts[first_view][7])
            for view in range(first_view, first_view + num_views):
                *crop, flip_x, flip_y, _, reduction = cuts[view]
                # A reduced frame is smaller by exactly this factor, except at its border.
                x1, y1, x2, y2 = (side // reduction for side in crop)
                of_view = frames.index_select(0, shown[view])
                pixels[view] = cut_frames(of_view, (x1, y1, x2, y2), size, flip_x, flip_y)
            first_view += num_views
    return pixels.permute(0, 1, 3, 4, 2)


def _groups(num_frames: list[int]) -> list[list[int]]:
    """The clips in groups of at most FRAMES_PER_CALL frames, or of one clip."""
    groups: list[list[int]] = []
    room = 0
    for clip, count in enumerate(num_frames):
        if count > room:
            groups.append([])
            room = FRAMES_PER_CALL
        groups[-1].append(clip)
        room -= count
    return groups


def _decode(files: list[Tensor], device: torch.device) -> list[Tensor]:
    """RGB frames uint8 [3, H, W] on the device."""
    try:
        # torchvision 0.29 deprecates this function in favour of TorchCodec's, which needs a newer
        # PyTorch than the oldest one that setup.cfg allows.
        return decode_jpeg(files, ImageReadMode.RGB, device)
    except RuntimeError:
        for file in files:
            _refuse_damaged(file)
        raise  # no file is to blame; memory may be too small


def _refuse_damaged(file: Tensor) -> None:
    """Refuse a file that the CPU cannot decode either."""
    try:
        decode_jpeg(file, ImageReadMode.RGB)
    except RuntimeError as error:
        raise _damaged(str(error).splitlines()[0]) from None


def _stack(frames: list[Tensor]) -> Tensor:
    sizes = {tuple(frame.shape[1:]) for frame in frames}
    if len(sizes) > 1:
        raise _damaged(f"the frames of a clip have {len(sizes)} sizes")
    return torch.stack(frames)


def _damaged(reason: str) -> InputError:
    return InputError(
        "damaged-file",
        f"a frame is not a readable JPEG: {reason}; `make verify` lists damaged shards",
    )


def decoding_on(device: torch.device, loader: LoaderConfig) -> LoaderConfig:
    """The loader options that a run recorded, for another device: without a GPU, the CPU decodes.

    A run that was trained with loader.decode = gpu can be tested on any machine.
    """
    if device.type == "cuda":
        check_decoding(loader, device)
        return loader
    return replace(loader, decode="cpu")


def check_decoding(loader: LoaderConfig, device: torch.device) -> None:
    """Refuse to decode on a GPU where that is not possible.

    Raises:
        InputError: it names the reason.
    """
    if loader.decode == "cpu":
        return
    if device.type != "cuda":
        raise InputError(
            "no-gpu",
            "loader.decode is gpu, and this command computes on the CPU; set loader.decode=cpu in "
            "the recipe or with --set, or run it where a GPU can be used",
        )
    smallest = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].ravel()
    try:
        decode_jpeg([torch.from_numpy(smallest)], ImageReadMode.RGB, device)
    except RuntimeError as error:
        raise InputError(
            "no-gpu",
            f"loader.decode is gpu, and this torchvision decodes no JPEG on {device}: "
            f"{str(error).splitlines()[0]}; set loader.decode=cpu in the recipe or with --set, or "
            "install a torchvision with CUDA into .venv (pytorch.org)",
        ) from None
