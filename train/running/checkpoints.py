"""Checkpoints from which a run continues after a stop or a kill, in DeepSpeed's layout.

The folder checkpoints/step-00001234/ holds DeepSpeed's files and COMPLETE, which is written last. A
folder is not used if it has no COMPLETE, or a file of another size than COMPLETE says. Files hold
only tensors and plain values: a file is refused if reading it could run code, see `SafeFiles`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from shared.errors import InputError
from shared.files import sync_folder, write_atomically
from train.running.engine import Processes

COMPLETE = "COMPLETE"
KEPT = 3
NAME = re.compile(r"step-\d+(-of-\d+)*")  # the latter from `train.checkpoint reshard`


def save_checkpoint(
    engine: Any, folder: Path, step: int, progress: dict[str, Any], processes: Processes
) -> Path:
    """Save the state after `step` optimiser steps. All processes must call this.

    Args:
        folder: holds all checkpoints of the run; the three newest complete ones are kept, and no
            incomplete one.
        progress: plain values that `load_checkpoint` returns.
    """
    tag = folder / f"step-{step:08d}"
    if processes.is_first:
        shutil.rmtree(tag, ignore_errors=True)  # a kill may have left it incomplete
    processes.wait()
    engine.checkpoint_engine = safe_files()
    state = {"progress": {**progress, "step": step}}
    engine.save_checkpoint(str(folder), tag=tag.name, client_state=state, save_latest=False)
    processes.wait()
    if processes.is_first:
        mark_complete(tag, step, _state_options(engine))
        _remove_others(folder, complete_checkpoints(folder)[-KEPT:])
    return tag


def _remove_others(folder: Path, kept: list[Path]) -> None:
    """Remove all other checkpoints, also incomplete ones, which a kill left.

    Nobody writes one now: all processes have written theirs, and the lock of the run keeps others
    away.
    """
    for tag in sorted(folder.glob("step-*")):
        if NAME.fullmatch(tag.name) and tag not in kept:
            # First, so that a half-deleted checkpoint is not complete.
            (tag / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(tag)


def mark_complete(tag: Path, step: int, options: dict[str, Any]) -> None:
    """Write COMPLETE, which makes the folder a checkpoint.

    Args:
        options: the [loader] options that the files depend on.
    """
    sync_folder(tag)
    files = {path.name: path.stat().st_size for path in sorted(tag.iterdir())}
    text = json.dumps({"step": step, "options": options, "files": files}, indent=1)
    write_atomically(tag / COMPLETE, text.encode() + b"\n")


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that can be loaded, oldest first."""
    return [tag for tag in sorted(Path(folder).glob("step-*")) if _is_complete(tag)]


def load_checkpoint(engine: Any, tag: Path) -> dict[str, Any]:
    """Load the state that `save_checkpoint` saved into the engine.

    Returns:
        The progress that was saved, with "step".

    Raises:
        InputError: the files hold other things than tensors and plain values, or were saved with
            another number of processes, ZeRO stage or precision.
    """
    engine.checkpoint_engine = safe_files()
    _check_partition(engine, tag)
    with contextlib.redirect_stdout(io.StringIO()):  # the bf16 optimizer prints a line
        _, state = engine.load_checkpoint(str(tag.parent), tag=tag.name)
    return state["progress"]


def _is_complete(tag: Path) -> bool:
    try:
        files = json.loads((tag / COMPLETE).read_text())["files"]
        return all((tag / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def saved_options(tag: Path) -> dict[str, Any]:
    """The [loader] options that the files of a complete checkpoint depend on."""
    return json.loads((tag / COMPLETE).read_text()).get("options", {})


def _state_options(engine: Any) -> dict[str, Any]:
    stage = engine.zero_optimization_stage()
    return {"zero_stage": stage, "precision": "bf16" if engine.bfloat16_enabled() else "fp32"}


def _check_partition(engine: Any, tag: Path) -> None:
    now = _state_options(engine)
    for name, saved in saved_options(tag).items():
        if saved != now[name]:
            raise InputError(
                "other-options",
                f"{tag} was saved with loader.{name} {saved}, and now it is {now[name]}; continue "
                f"with --set loader.{name}={saved}",
            )
    stage = now["zero_stage"]
    found = len(list(tag.glob("*zero_pp_rank_*_optim_states.pt")))
    if stage > 0 and found != engine.world_size:
        raise InputError(
            "other-processes",
            f"{tag} was saved by {found} processes, and now there are {engine.world_size}; start "
            f"{found} processes, or run `python -m train.checkpoint reshard {tag.parent.parent} "
            f"--processes {engine.world_size}`",
        )


def safe_files() -> Any:
    """DeepSpeed's file interface, with durable writes and with reads that run no code."""
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    class SafeFiles(TorchCheckpointEngine):
        """torch.save with fsync, torch.load with weights_only."""

        def save(self, state_dict: dict, path: str) -> None:
            with open(path, "wb") as stream:
                torch.save(state_dict, stream)
                stream.flush()
                os.fsync(stream.fileno())

        def load(self, path: str, map_location: Any = None) -> dict:
            # Plain records that DeepSpeed saves with its tensors.
            known = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
            try:
                with torch.serialization.safe_globals(known):
                    return torch.load(path, map_location=map_location, weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                reason = str(error).splitlines()[0]
                raise InputError(
                    "unsafe-file",
                    f"{path} is refused: it is damaged, or it could run code when it is read "
                    f"({reason})",
                ) from None

    return SafeFiles()
