"""A training run as it was asked for, resolved and printed, before a model is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from train.clips.sampler import BatchPlan, steps_per_epoch
from train.clips.table import ClipTable
from train.network.head import parameter_counts
from train.options.config import FinetuneConfig, LoaderConfig, PretrainConfig
from train.running.command import Common, hold
from train.running.engine import Processes, start_processes
from train.running.optim import effective_batch, scaled_learning_rate, warmup_steps
from train.running.progress import Interruption
from train.running.run_folder import RunFolder
from train.tables.nested import flatten
from train.tables.typed import to_table


@dataclass(frozen=True)
class RunSetup:
    """What a run is made of, and what follows from it.

    Attributes:
        common: options of the command line.
        folder: of the run.
        config: what is trained.
        loader: how clips are read.
        table: the clips of split train.
        processes: that train together.
        plan: how a batch is shared out.
        options: resolved, for options.json.
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
        """Optimiser steps of an epoch."""
        return steps_per_epoch(len(self.table), self.config.batch_size)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.config.epochs * self.epoch_steps

    @property
    def effective_batch(self) -> int:
        """Views that a step averages over."""
        return effective_batch(self.config.batch_size, self.config.repeats)

    @property
    def learning_rate(self) -> float:
        """At its highest."""
        return scaled_learning_rate(self.config.optim.base_learning_rate, self.effective_batch)

    def print_parameters(self, model: nn.Module) -> None:
        """Print how many parameters each part of the model has."""
        counts = ", ".join(f"{part} {count:,}" for part, count in parameter_counts(model).items())
        self.processes.say(f"  parameters: {counts}")

    @contextlib.contextmanager
    def open_folder(self) -> Iterator[Interruption | None]:
        """Lock the folder of the run and write its options.

        Yields:
            What asks the run to stop; None if the run is finished already, which is printed.
        """
        processes, folder = self.processes, self.folder
        with (
            hold(folder, processes),
            folder.restored_on_failure(processes.is_first),
            Interruption(processes, self.common.stop_after) as stop,
        ):
            if processes.is_first:
                folder.begin(self.options, self.common.overwrite)
            processes.wait()
            if folder.is_finished:
                processes.say(f"{folder.path} is finished already and is used as it is")
            yield None if folder.is_finished else stop


def set_up(
    command: str,
    common: Common,
    folder: RunFolder,
    config: PretrainConfig | FinetuneConfig,
    loader: LoaderConfig,
    table: ClipTable,
    **further: Any,
) -> RunSetup:
    """Start the processes, share out the work, and print all that was resolved.

    Args:
        command: "pretrain" or "finetune".
        further: options of that command, for options.json.

    Raises:
        InputError: the batch cannot be shared out; with --like, the input is another.
    """
    processes = start_processes(common.device)
    options = {
        "command": command,
        "dataset": common.dataset,
        "data": table.data_digest,
        "manifest": table.manifest_digest,
        "clips": len(table),
        **further,
        "seed": common.seed,
        "config": to_table(config),
        "loader": to_table(loader),
        "device": {"kind": processes.device.type, "processes": processes.world_size},
    }
    plan = BatchPlan.fit(config.batch_size, processes.world_size, loader.micro_batch_size)
    setup = RunSetup(common, folder, config, loader, table, processes, plan, options)
    num_steps = setup.num_steps  # refuses a batch larger than the dataset
    if processes.is_first:
        _print_resolved(setup, num_steps)
    if earlier := common.earlier:
        for line in earlier.differences():
            processes.say(f"  unlike {earlier.name}: {line}")
        earlier.check_input(options)
    return setup


def _print_resolved(setup: RunSetup, num_steps: int) -> None:
    """All options as the run will use them, one a line, and what follows from them."""
    plan, views = setup.plan, setup.effective_batch
    rows = {
        **{k: v for k, v in flatten(setup.options).items() if not k.startswith("class_names.")},
        "folder": setup.folder.path,
        "effective batch": f"{views} = {plan.micro_size} clips * {plan.world_size} processes"
        f" * {plan.accumulation} accumulated * {setup.config.repeats} repeats",
        "learning rate": f"{setup.learning_rate:.3g} = base * {views} / 256",
        "steps": f"{num_steps}, the learning rate rises in the first "
        f"{warmup_steps(setup.config.optim, setup.epoch_steps, num_steps)}",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"  {name:<{width}}  {value}")
