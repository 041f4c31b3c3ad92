"""A training run with all options resolved and printed, before the model is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from shared.wording import counted
from train.clips.sampler import BatchPlan, steps_per_epoch
from train.clips.table import ClipTable
from train.network.head import parameter_counts
from train.options.config import FinetuneConfig, LoaderConfig, PretrainConfig
from train.running.command import Common, hold
from train.running.engine import Processes, slow_bf16, start_processes, wants_bf16
from train.running.optim import effective_batch, scaled_learning_rate, warmup_steps
from train.running.progress import Interruption
from train.running.run_folder import ROWS, RunFolder
from train.samples.coded_views import check_decoding
from train.tables.nested import flatten
from train.tables.typed import to_table


@dataclass(frozen=True)
class RunSetup:
    """The resolved options and the parts of a run, and numbers that follow from them.

    Attributes:
        common: the options of the command line.
        folder: the run folder.
        config: the options of pretraining or finetuning.
        loader: how clips are read.
        table: the clips of split train.
        processes: the processes that train together.
        plan: how a batch is divided over processes and micro-batches.
        options: the resolved options, for options.json.
    """

    common: Common
    folder: RunFolder
    config: PretrainConfig | FinetuneConfig
    loader: LoaderConfig
    table: ClipTable
    processes: Processes
    plan: BatchPlan
    options: dict[str, Any]

    @property
    def epoch_steps(self) -> int:
        """Number of optimiser steps in an epoch."""
        return steps_per_epoch(len(self.table), self.config.batch_size)

    @property
    def num_steps(self) -> int:
        """Number of optimiser steps in the whole run."""
        return self.config.epochs * self.epoch_steps

    @property
    def effective_batch(self) -> int:
        """Number of views in a step."""
        return effective_batch(self.config.batch_size, self.config.repeats)

    @property
    def learning_rate(self) -> float:
        """The highest learning rate of the run."""
        return scaled_learning_rate(self.config.optim.base_learning_rate, self.effective_batch)

    def print_parameters(self, model: nn.Module) -> None:
        """Print the number of parameters of the model and of its parts."""
        counts = parameter_counts(model)
        total = counts.pop("total")
        parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        self.processes.say(f"The model has {total:,} parameters: {parts}.")

    @contextlib.contextmanager
    def open_folder(self) -> Iterator[Interruption | None]:
        """Lock the run folder and write options.json, unless the run is finished.

        Yields:
            The requests to stop the run; None if the run is finished, which is printed.
        """
        processes, folder = self.processes, self.folder
        with (
            hold(folder, processes),
            folder.restored_on_failure(processes.is_first),
            Interruption(processes, self.common.stop_after) as stop,
        ):
            if processes.is_first:
                folder.begin(self.options, self.common.overwrite, keeps_finished=True)
            processes.wait()
            if folder.is_finished:
                processes.say(f"Run {folder.path} is finished; nothing is trained.")
            yield None if folder.is_finished else stop


def set_up(
    command: str,
    common: Common,
    folder: RunFolder,
    config: PretrainConfig | FinetuneConfig,
    loader: LoaderConfig,
    table: ClipTable,
    held_out: ClipTable | None = None,
    **further: Any,
) -> RunSetup:
    """Start the processes, divide the work, and print what the run will do.

    Args:
        command: "pretrain" or "finetune".
        held_out: the clips of split val that choose the best weights; None if there are none.
        further: options of this command alone, for options.json.

    Raises:
        InputError: the batch cannot be divided; a GPU is to decode and cannot; or with --like, the
            input has changed.

    Returns:
        the run. Its batch is smaller than that of `config` if there are fewer clips.
    """
    processes = start_processes(common.device)
    check_decoding(loader, processes.device)
    begun = None if common.overwrite else _begun_batch(folder)
    config, batch_line = _with_fitting_batch(
        config, loader, len(table), processes.world_size, begun
    )
    options = {
        "command": command,
        "dataset": common.dataset,
        "data": table.data_digest,
        "manifest": table.manifest_digest,
        ROWS: _rows(config, table, held_out),
        "clips": len(table),
        **further,
        "seed": common.seed,
        "config": to_table(config),
        "loader": to_table(loader),
        "device": {"kind": processes.device.type, "processes": processes.world_size},
    }
    plan = BatchPlan.fit(config.batch_size, processes.world_size, loader.micro_batch_size)
    setup = RunSetup(common, folder, config, loader, table, processes, plan, options)
    num_steps = setup.num_steps  # refuses a batch that is larger than the dataset
    if common.verbose or common.dry_run:
        for line in _option_lines(options):
            processes.say(line)
    for said in [common.recipe_line, batch_line, *_summary_lines(setup, num_steps)]:
        if said is not None:
            processes.say(said)
    if earlier := common.earlier:
        if changed := earlier.differences():
            processes.say(f"Versions differ from run {earlier.name}: {', '.join(changed)}.")
        earlier.check_input(options)
    return setup


def _rows(
    config: PretrainConfig | FinetuneConfig, table: ClipTable, held_out: ClipTable | None
) -> dict[str, dict[str, Any]]:
    """Digests of the rows of the manifest that a run uses: their ids, and the labels it learns."""
    if isinstance(config, PretrainConfig):
        return {"train": table.rows_of("train")}
    # Without an entry, clips of split val that are added later would not be noticed.
    val = {"clips": None} if held_out is None else table.rows_of("val", config.labels)
    return {"train": table.rows_of("train", config.labels), "val": val}


def _begun_batch(folder: RunFolder) -> int | None:
    """The batch of the run in this folder; None if there is none."""
    if not folder.options.is_file():
        return None
    return (folder.read_options().get("config") or {}).get("batch_size")


def _with_fitting_batch(
    config: PretrainConfig | FinetuneConfig,
    loader: LoaderConfig,
    num_clips: int,
    world_size: int,
    begun: int | None = None,
) -> tuple[PretrainConfig | FinetuneConfig, str | None]:
    """The config with a batch that is no larger than the dataset, and a line if it was cut.

    A batch that was cut can be divided over the processes, and into full micro-batches if it has
    more than one. A run that continues keeps the batch to which it was cut, also with micro-batches
    of another size, such as smaller ones for want of memory.

    Args:
        begun: the batch of the run if it continues.
    """
    batch_size = config.batch_size
    if batch_size <= num_clips:
        return config, None
    full = loader.micro_batch_size * world_size
    cut = num_clips // full * full or num_clips // world_size * world_size
    if begun is not None and begun <= num_clips < 2 * begun and begun % world_size == 0:
        cut = begun  # a cut leaves out less than half of the clips
    if cut == 0:  # refused where steps are counted
        return config, None
    line = (
        f"The batch of {counted(batch_size, 'clip')} is cut to {cut:,}, because split train has "
        f"{counted(num_clips, 'clip')}."
    )
    return replace(config, batch_size=cut), line


def _option_lines(options: dict[str, Any]) -> list[str]:
    """All resolved options except the names of classes, one a line."""
    rows = {k: v for k, v in flatten(options).items() if not k.startswith("class_names.")}
    width = max(map(len, rows))
    return [f"  {name:<{width}}  {value}" for name, value in rows.items()]


def _summary_lines(setup: RunSetup, num_steps: int) -> list[str]:
    """What the run will do, one fact a line."""
    config, plan, processes = setup.config, setup.plan, setup.processes
    if setup.options["command"] == "pretrain":
        what = f"Pretraining by method {setup.options['method']}"
    else:
        source = setup.options["from"]
        what = f"Finetuning from {'random weights' if source == 'none' else source}"
    clips = counted(len(setup.table), "clip")
    warmup = counted(warmup_steps(config.optim, setup.epoch_steps, num_steps), "step")
    precision = "bf16" if wants_bf16(setup.loader.precision, processes.uses_cuda) else "fp32"
    device = "GPU" if processes.uses_cuda else "CPU"
    workers = counted(setup.loader.workers, "worker")
    return [
        f"{what} uses {clips} of split train and seed {setup.common.seed}.",
        f"The run folder is {setup.folder.path}.",
        f"The run takes {counted(num_steps, 'step')} in {counted(config.epochs, 'epoch')}.",
        f"The effective batch is {setup.effective_batch} = {plan.micro_size} clips * "
        f"{plan.world_size} processes * {plan.accumulation} accumulated * {config.repeats} "
        "repeats.",
        f"The learning rate rises to {setup.learning_rate:.3g} = "
        f"{config.optim.base_learning_rate:g} * {setup.effective_batch} / 256 in {warmup}.",
        f"Each process computes on a {device} in {precision} and reads clips with {workers}.",
        *filter(None, [slow_bf16(setup.loader.precision, processes.uses_cuda)]),
        f"All options are in {setup.folder.options.name}; --verbose prints them.",
    ]
