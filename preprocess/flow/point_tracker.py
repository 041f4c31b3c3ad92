"""Tracks of points by a program of others: a TorchScript file, as `--track-weights` names it.

The program is called as CoTracker and TAPIR are (`torch.jit.save` makes such a file of them):

    tracks, visible = program(video, queries)

    video     float32 [1, T, 3, H, W], RGB, 0 to 255
    queries   float32 [1, N, 3]: frame, x and y of N points; (0, 0) is the centre of the first pixel
    tracks    float [1, T, N, 2]: x and y of the points in every frame
    visible   bool, or float from 0 to 1, [1, T, N]: whether a point is seen

Nothing is downloaded. TorchScript is code: run only files that you trust. A track ends where its
point leaves the frame or is not seen.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from shared.errors import InputError

EXPECTED = (
    "a TorchScript file is expected whose function takes a video [1, T, 3, H, W] and queries "
    "[1, N, 3] and returns tracks [1, T, N, 2] and visibility [1, T, N]"
)
SEEN = 0.5  # visibility above which a point is seen


class PointTracker:
    """A point tracker from a file.

    Args:
        weights: the TorchScript file.
        device: "cpu" or "cuda".

    Raises:
        InputError: the file does not exist, or is not TorchScript.
    """

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        if not Path(weights).is_file():
            raise InputError("missing-file", f"no point tracker at {weights}; {EXPECTED}")
        try:
            with warnings.catch_warnings():
                # PyTorch advises to write files in another format; it still reads this one.
                warnings.simplefilter("ignore", FutureWarning)
                self._program = torch.jit.load(str(weights), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                "wrong-format", f"{weights} does not load ({reason}); {EXPECTED}"
            ) from None
        self._weights, self._device = weights, torch.device(device)

    @torch.inference_mode()
    def follow(
        self, colour: torch.Tensor, starts: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Follow points, starting at every frame: see `preprocess.flow.tracks.follow`.

        Args:
            colour: uint8 [F, H, W, 3], RGB.
            starts: float [G, 2], x and y of the first positions; pixel i covers i to i + 1.
            length: L, the number of steps.

        Returns:
            positions float [F, G, L, 2], displacements float [F, G, L, 2], num_steps int64 [F, G].

        Raises:
            InputError: the program fails, or returns other shapes.
        """
        num_frames, height, width = colour.shape[:3]
        starts = starts.to(self._device)
        shape = (num_frames, len(starts), length)
        positions = starts[None, :, None].expand(*shape, 2).clone()
        displacements = positions.new_zeros((*shape, 2))
        num_steps = torch.zeros(shape[:2], dtype=torch.int64, device=self._device)
        size = starts.new_tensor([width, height])
        for first in range(num_frames - 1):
            window = colour[first : first + length + 1]
            places, seen = self._tracked(window, starts)
            places[0] = starts
            inside = ((places >= 0) & (places < size)).all(-1) & seen
            alive = inside[1:].cumprod(0).bool()  # [steps, G]
            steps = len(alive)
            moves = (places[1:] - places[:-1]) * alive[..., None]
            displacements[first, :, :steps] = moves.transpose(0, 1)
            before = torch.cat([torch.zeros_like(starts)[None], moves.cumsum(0)])[:-1]
            positions[first, :, :steps] = (starts + before).transpose(0, 1)
            positions[first, :, steps:] = (starts + moves.sum(0))[:, None]
            num_steps[first] = alive.sum(0)
        return positions, displacements, num_steps

    def _tracked(
        self, window: torch.Tensor, starts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Places float [T, G, 2] in the frames of a window, and whether the points are seen."""
        video = window.to(self._device).permute(0, 3, 1, 2)[None].float()
        queries = torch.cat([torch.zeros_like(starts[:, :1]), starts - 0.5], dim=1)[None]
        try:
            tracks, visible = self._program(video, queries)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(
                "wrong-format", f"{self._weights} fails ({reason}); {EXPECTED}"
            ) from None
        shape = (1, len(window), len(starts))
        if tuple(tracks.shape) != (*shape, 2) or tuple(visible.shape) != shape:
            raise InputError(
                "wrong-format",
                f"{self._weights} returns {tuple(tracks.shape)} and {tuple(visible.shape)} for "
                f"{len(starts)} points in {len(window)} frames; {EXPECTED}",
            )
        return tracks[0].float() + 0.5, visible[0].float() > SEEN
