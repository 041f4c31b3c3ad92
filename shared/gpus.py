"""Why there is no GPU, in a sentence.

`torch.cuda` is handed over as `cuda`, since nothing in this folder imports torch.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from shared.errors import InputError

DRIVER = Path("/proc/driver/nvidia/version")


def why_no_gpu(cuda: Any) -> str | None:
    """PyTorch's own reason, one sentence; None where a GPU can be used.

    Such as "Found no NVIDIA driver on your system" or "The NVIDIA driver on your system is too old
    (found version 11040)".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reason comes as a warning first, of several lines
        if cuda.is_available():
            return None
        try:
            cuda.init()
        except (RuntimeError, AssertionError) as error:
            return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
    return "PyTorch sees none"


def refuse_too_few(cuda: Any, asked: int, option: str) -> None:
    """Refuse to begin with fewer GPUs than were asked for.

    Raises:
        InputError: with how many there are, and the reason where there are none.
    """
    reason = why_no_gpu(cuda)
    if reason is not None:
        raise InputError(
            "no-gpu", f"{option} {asked}: no GPU can be used here: {reason}; {_remedy(reason)}"
        )
    if cuda.device_count() < asked:
        raise InputError(
            "no-gpu",
            f"{option} {asked}: this machine has {cuda.device_count()} GPUs; ask for no more",
        )


def unused_gpu(cuda: Any) -> str | None:
    """A line for where a driver is there but no GPU can be used; None where all is as it seems."""
    reason = why_no_gpu(cuda)
    if reason is None or not DRIVER.exists():
        return None
    return f"computing on the CPU: {reason}; {_remedy(reason)}"


def _remedy(reason: str) -> str:
    if "too old" in reason:
        return "update the driver, or install a PyTorch made for it into .venv (pytorch.org)"
    if "not compiled" in reason:
        return "install a PyTorch with CUDA into .venv (pytorch.org), or leave GPUs out"
    return "leave GPUs out to compute on the CPU"
