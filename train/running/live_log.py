"""Writes the figures of a run as it trains: log.jsonl, TensorBoard and, on request, Weights &
Biases.

All three have the same figures under the same names; texts are in log.jsonl alone. The report reads
log.jsonl. For an event {"event": "train", "step": 10, "loss": 0.9} TensorBoard and Weights & Biases
get train/loss = 0.9 at step 10. TensorBoard also gets the options of the run, for its page
"HParams", and pictures.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import InputError
from shared.files import write_atomically
from shared.run_record import JsonlLog
from train.running.run_folder import RunFolder
from train.tables.nested import flatten

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


COMPARED = ("train/loss", "validate/top1")
"""The curves whose last values TensorBoard lists beside the options of each run."""


class LiveLog:
    """The log of a run. The first process writes it; the others write nothing.

    Args:
        folder: the run folder.
        is_first: whether this process writes.
        first_step: steps that were done before this start of the run.
        tensorboard: whether event files are written to the folder tensorboard/ of the run.
        project: project of Weights & Biases; None for no project.
        options: options of the run, for Weights & Biases and TensorBoard.

    Raises:
        InputError: Weights & Biases is requested and cannot be used.
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
            from torch.utils.tensorboard import SummaryWriter  # importing it takes half a second

            # Hides what a killed run wrote after its last checkpoint: those steps are computed
            # again.
            self._curves = SummaryWriter(str(folder.tensorboard), purge_step=first_step + 1)
            _write_options(self._curves, options)
        self._log = JsonlLog(folder.log)

    def write(self, event: dict[str, Any]) -> None:
        """Write an event: its "event", "step" and figures."""
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

    def write_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Show a picture uint8 [H, W, 3] in TensorBoard, if it is written."""
        if self._curves is not None:
            self._curves.add_image(name, picture, step, dataformats="HWC")
            self._curves.flush()

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
        if self._curves is not None:
            self._curves.close()
        if self._remote is not None:
            self._remote.finish()


def _write_options(curves: SummaryWriter, options: Mapping[str, Any]) -> None:
    """Write options as hyper-parameters, which TensorBoard compares between runs.

    `SummaryWriter.add_hparams` would write them to a run of their own, apart from the curves.
    """
    from torch.utils.tensorboard.summary import hparams

    plain = {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in flatten(options).items()
    }
    for summary in hparams(plain, dict.fromkeys(COMPARED, 0.0)):
        curves._get_file_writer().add_summary(summary)
    curves.flush()


def _start_wandb(project: str, folder: RunFolder, options: Mapping[str, Any]) -> Any:
    """Start a run of Weights & Biases, or continue it if this run continues.

    WANDB_MODE=offline keeps everything in the run folder, for `wandb sync` later.
    """
    try:
        import wandb
    except ImportError:
        raise InputError(
            "missing-package",
            "--wandb needs the package wandb, which is not installed; run `.venv/bin/pip install "
            "wandb`, or use the TensorBoard curves, which do not need it",
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
            "service-refused",
            f"--wandb {project}: {str(error).splitlines()[0]}. Run `wandb login` once, or set "
            "WANDB_MODE=offline to keep the figures in the run folder",
        ) from None
