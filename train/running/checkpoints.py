"""Checkpoints to go on from after a stop or a kill, in DeepSpeed's layout.

checkpoints/step-00001234/ holds DeepSpeed's files and, written last, COMPLETE. A folder without it,
or with a file of another size than COMPLETE says, is as good as none. Tensors and plain values
only: what would need unpickling of code is refused, see `SafeFiles`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from shared.errors import InputError
from shared.files import sync_folder, write_atomically
from train.running.engine import Processes

COMPLETE = "COMPLETE"
KEPT = 3


def save_checkpoint(
    engine: Any, folder: Path, step: int, progress: dict[str, Any], processes: Processes
) -> Path:
    """Save the state after `step` optimiser steps. All processes call this.

    Args:
        folder: of all checkpoints of the run; the three newest complete ones are kept.
        progress: plain values to come back from `load_checkpoint`.
    """
    tag = folder / f"step-{step:08d}"
    if processes.is_first:
        shutil.rmtree(tag, ignore_errors=True)  # left half-written by a kill
    processes.wait()
    engine.checkpoint_engine = safe_files()
    state = {"progress": {**progress, "step": step}}
    engine.save_checkpoint(str(folder), tag=tag.name, client_state=state, save_latest=False)
    processes.wait()
    if processes.is_first:
        mark_complete(tag, step, _state_options(engine))
        for old in complete_checkpoints(folder)[:-KEPT]:
            (old / COMPLETE).unlink()  # first: half a checkpoint must not look whole
            shutil.rmtree(old)
    return tag


def mark_complete(tag: Path, step: int, options: dict[str, Any]) -> None:
    """Write COMPLETE: from now on the folder is a checkpoint.

    Args:
        options: [loader] options that its files depend on.
    """
    sync_folder(tag)
    files = {path.name: path.stat().st_size for path in sorted(tag.iterdir())}
    text = json.dumps({"step": step, "options": options, "files": files}, indent=1)
    write_atomically(tag / COMPLETE, text.encode() + b"\n")


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that can be loaded, oldest first."""
    return [tag for tag in sorted(Path(folder).glob("step-*")) if _is_complete(tag)]


def load_checkpoint(engine: Any, tag: Path) -> dict[str, Any]:
    """Put the engine into the state that `save_checkpoint` saved; returns its progress and "step".

    Raises:
        InputError: the files hold something else than tensors and plain values, or the state of
            another number of processes, ZeRO stage or precision.
    """
    engine.checkpoint_engine = safe_files()
    _check_shares(engine, tag)
    with contextlib.redirect_stdout(io.StringIO()):  # of the bf16 optimizer, a line a process
        _, state = engine.load_checkpoint(str(tag.parent), tag=tag.name)
    return state["progress"]


def _is_complete(tag: Path) -> bool:
    try:
        files = json.loads((tag / COMPLETE).read_text())["files"]
        return all((tag / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def saved_options(tag: Path) -> dict[str, Any]:
    """[loader] options that a complete checkpoint's files depend on."""
    return json.loads((tag / COMPLETE).read_text()).get("options", {})


def _state_options(engine: Any) -> dict[str, Any]:
    stage = engine.zero_optimization_stage()
    return {"zero_stage": stage, "precision": "bf16" if engine.bfloat16_enabled() else "fp32"}


def _check_shares(engine: Any, tag: Path) -> None:
    now = _state_options(engine)
    for name, saved in saved_options(tag).items():
        if saved != now[name]:
            raise InputError(
                f"{tag} was saved with loader.{name} {saved}, and it is {now[name]} now; give "
                f"--set loader.{name}={saved} to go on"
            )
    stage = now["zero_stage"]
    found = len(list(tag.glob("*zero_pp_rank_*_optim_states.pt")))
    if stage > 0 and found != engine.world_size:
        raise InputError(
            f"{tag} was saved by {found} processes, and these are {engine.world_size}; start "
            f"{found}, or run `python -m train.checkpoint reshard {tag.parent.parent} --processes "
            f"{engine.world_size}`"
        )


def safe_files() -> Any:
    """DeepSpeed's way to files, such that writes last and reads run no code."""
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
            # Records without behaviour that DeepSpeed keeps beside its tensors.
            known = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
            try:
                with torch.serialization.safe_globals(known):
                    return torch.load(path, map_location=map_location, weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                reason = str(error).splitlines()[0]
                raise InputError(
                    f"{path} is refused: it is damaged, or would run code when read ({reason})"
                ) from None

    return SafeFiles()
