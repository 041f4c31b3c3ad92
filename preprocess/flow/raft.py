"""Flow by torchvision's RAFT (Teed and Deng, ECCV 2020), with weights from a local file."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import torch
import torch.nn.functional as F

from shared.errors import InputError

STRIDE = 8  # features have 1/8 of the size of the frame
SMALLEST_SIDE = 128  # px: the coarsest of the 4 correlation levels needs 2 cells a side
MEMORY = 1 << 30  # bytes; largest correlation volume, above which a batch is split

EXPECTED = (
    "a weights file of torchvision's raft_small or raft_large is expected, such as "
    "raft_small_C_T_V2-01064c6d.pth or raft_large_C_T_SKHT_V2-ff5fadd5.pth; nothing is downloaded"
)


class RaftFlow:
    """Computes flow of pairs of grey frames: twice [B, H, W], 0..255 -> float32 [B, 2, H, W].

    Flow is u then v, in pixels per frame. RAFT was trained on colour images, so all three channels
    get the grey values. Frames are padded with their edge values to multiples of 8, at least 128
    px, and the flow is cropped again.

    Args:
        weights: state_dict file of torchvision's `raft_small` or `raft_large`. The shapes of its
            tensors decide which network is built.
        device: device of the network.

    Raises:
        InputError: the file does not exist, holds no weights, or holds those of another network.
    """

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        self.model = _build(_read_state(Path(weights)), weights).to(device).eval()
        self.device = torch.device(device)

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        height, width = first.shape[1:]
        padded_height, padded_width = _padded(height), _padded(width)
        cells = (padded_height // STRIDE) * (padded_width // STRIDE)
        volume_bytes = 4 * cells * cells * 4 // 3  # float32, and the coarser levels
        batch = max(1, MEMORY // volume_bytes)
        padding = (0, padded_width - width, 0, padded_height - height)
        flows = [
            self._batch(one, other, padding)[..., :height, :width]
            for one, other in zip(first.split(batch), second.split(batch), strict=True)
        ]
        return torch.cat(flows)

    @torch.inference_mode()
    def _batch(
        self, first: torch.Tensor, second: torch.Tensor, padding: tuple[int, int, int, int]
    ) -> torch.Tensor:
        pictures = torch.stack([first, second]).to(self.device).float().div(127.5).sub(1)
        pictures = F.pad(pictures, padding, mode="replicate")[:, :, None].expand(-1, -1, 3, -1, -1)
        return self.model(*pictures)[-1].float()  # the last of 12 refinements


def _padded(side: int) -> int:
    return max(SMALLEST_SIDE, math.ceil(side / STRIDE) * STRIDE)


def _read_state(weights: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError("missing-file", f"no RAFT weights at {weights}; {EXPECTED}") from None
    except IsADirectoryError:
        raise InputError("wrong-format", f"{weights} is a folder; {EXPECTED}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise InputError(
            "unsafe-file", f"{weights} does not load as plain tensors; {EXPECTED}"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError("wrong-format", f"{weights} holds no table of tensors; {EXPECTED}")
    return state


def _build(state: dict[str, torch.Tensor], weights: Path) -> torch.nn.Module:
    from torchvision.models.optical_flow import raft_large, raft_small

    shapes = {name: tensor.shape for name, tensor in state.items()}
    for build in (raft_small, raft_large):
        model = build(weights=None, progress=False)
        if shapes == {name: tensor.shape for name, tensor in model.state_dict().items()}:
            model.load_state_dict(state)
            return model
    names = ", ".join(list(shapes)[:3]) or "nothing"
    raise InputError(
        "other-model", f"{weights} holds the tensors of another network ({names}, ...); {EXPECTED}"
    )
