"""The figures of a run while it goes: log.jsonl, TensorBoard, and Weights & Biases on request.

All three have the same figures under the same names. log.jsonl is what the report reads; of an
event {"event": "train", "step": 10, "loss": 0.9} TensorBoard and Weights & Biases get
train/loss = 0.9 at step 10.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.files import write_atomically
from shared.run_record import JsonlLog
from train.running.run_folder import RunFolder


class LiveLog:
    """Where the first process writes the figures of a run; the others write nothing.

    Args:
        folder: of the run.
        is_first: whether this process writes.
        first_step: what was already done when this run began or went on.
        tensorboard: whether event files are written, into the run's folder tensorboard/.
        project: of Weights & Biases; None uses none.
        options: of the run, for Weights & Biases.

    Raises:
        InputError: Weights & Biases is asked for and cannot be used.
    """

    def __init__(
        self,
        folder: RunFolder,
        is_first: bool,
        first_step: int,
        tensorboard: bool,
        project: str | None,
        options: Mapping[str, Any],
    ) -> None:
        self._log, self._curves, self._remote = None, None, None
        if not is_first:
            return
        if project is not None:
            self._remote = _start_wandb(project, folder, options)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # half a second

            # What a killed run wrote after its last checkpoint is hidden: those steps come again.
            self._curves = SummaryWriter(str(folder.tensorboard), purge_step=first_step + 1)
        self._log = JsonlLog(folder.log)

    def write(self, event: dict[str, Any]) -> None:
        """An event with its "event", "step" and figures."""
        if self._log is None:
            return
        self._log.write(event)
        figures = {
            f"{event['event']}/{name}": value
            for name, value in event.items()
            if isinstance(value, Real) and name != "step"
        }
        if self._curves is not None:
            for name, value in figures.items():
                self._curves.add_scalar(name, value, event["step"])
            self._curves.flush()
        if self._remote is not None:
            self._remote.log(figures, step=event["step"])

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
        if self._curves is not None:
            self._curves.close()
        if self._remote is not None:
            self._remote.finish()


def _start_wandb(project: str, folder: RunFolder, options: Mapping[str, Any]) -> Any:
    """A run of Weights & Biases that goes on when this one does.

    WANDB_MODE=offline keeps everything in the run's folder, for `wandb sync` later.
    """
    try:
        import wandb
    except ImportError:
        raise InputError(
            "--wandb needs the package wandb, which is not installed: .venv/bin/pip install wandb; "
            "TensorBoard's curves are written without it"
        ) from None
    identity = folder.path / "wandb-id"
    if not identity.exists():
        write_atomically(identity, secrets.token_hex(4).encode())
    settings = wandb.Settings(console="off", silent=True)
    try:
        return wandb.init(
            project=project,
            name=folder.path.name,
            id=identity.read_text(),
            resume="allow",
            dir=str(Path(folder.path).resolve()),
            config=dict(options),
            settings=settings,
        )
    except wandb.Error as error:
        raise InputError(
            f"--wandb {project}: {str(error).splitlines()[0]}. `wandb login` once, or set "
            "WANDB_MODE=offline to keep the figures in the run's folder"
        ) from None
