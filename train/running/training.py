"""The training loop of pretraining and finetuning, except the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from shared.progress import bar_options
from train.clips.sampler import StepSampler
from train.network.compiled import compile_blocks, wants_compiling
from train.running.checkpoints import complete_checkpoints, load_checkpoint, save_checkpoint
from train.running.engine import deepspeed_config, start_engine, wants_bf16
from train.running.live_log import LiveLog
from train.running.optim import make_optimizer, make_schedule
from train.running.profiling import StepProfiler
from train.running.progress import Interruption, LossWatch, SaveClock, Stopwatch, seed_step
from train.running.run_setup import RunSetup
from train.samples.datasets import Sample
from train.samples.loading import make_loader, read_batches
from train.samples.prefetch import with_prefetching


class Training:
    """A run from its last checkpoint to its end, or until a stop is requested.

    It is a context manager around this loop:

        while training.has_steps_left:
            for number, batch in training.micro_batches():
                training.backward(loss)
            training.end_step()
            if training.should_log():
                [loss] = training.mean_losses()
                training.log({"loss": loss}, flops)
                training.save_or_stop()

    Args:
        setup: the resolved run.
        model: the model with its initial weights, on the CPU.
        dataset: the clips; its keys are (epoch, index).
        stop: requests to stop the run.
        progress: values at step 0 that checkpoints keep beside weights and step. The run ends when
            `stopped_early` among them becomes true.

    Attributes:
        engine: the DeepSpeed engine, which calls the model.
        progress: plain values that are saved with each checkpoint.
        step: number of optimiser steps that are done.
        learning_rate: learning rate of the current step, without layer decay.
        stopped_by: why the run stopped before its end; None if it did not.
    """

    def __init__(
        self,
        setup: RunSetup,
        model: nn.Module,
        dataset: Dataset,
        stop: Interruption,
        **progress: Any,
    ) -> None:
        config, processes, loader = setup.config, setup.processes, setup.loader
        self._setup, self._stop, self._dataset = setup, stop, dataset
        self._optimizer = make_optimizer(model, config.optim, setup.learning_rate)
        self._schedule = make_schedule(
            self._optimizer,
            config.optim,
            setup.epoch_steps,
            setup.num_steps,
            setup.effective_batch,
        )
        if wants_compiling(loader.compile, processes.uses_cuda):
            compile_blocks(model)
        settings = deepspeed_config(
            setup.plan,
            config.repeats,
            config.optim.gradient_clipping,
            wants_bf16(loader.precision, processes.uses_cuda),
            loader.zero_stage,
        )
        self.engine = start_engine(model, self._optimizer, settings, processes.device)
        self.progress = progress
        self.step = 0
        self.stopped_by: str | None = None
        if saved := complete_checkpoints(setup.folder.checkpoints):
            self.progress |= load_checkpoint(self.engine, saved[-1])
            self.step = self.progress.pop("step")
            processes.say(f"Training continues from step {self.step}, saved in {saved[-1]}.")

    def __enter__(self) -> Training:
        setup, common, processes = self._setup, self._setup.common, self._setup.processes
        order = StepSampler(
            setup.table.shard,
            setup.plan,
            processes.rank,
            self.step,
            setup.num_steps,
            common.seed,
            setup.config.shuffle_shards,
        )
        self._watch = Stopwatch(processes)
        batches = with_prefetching(setup.table, order)
        loader = make_loader(self._dataset, batches, setup.loader, processes.uses_cuda)
        self._losses = LossWatch(processes, setup.table.clip_id)
        self._clock = SaveClock(setup.loader.checkpoint_minutes)
        with ExitStack() as opened:
            self._batches = opened.enter_context(closing(read_batches(loader)))
            self._log = opened.enter_context(
                closing(
                    LiveLog(
                        setup.folder,
                        processes.is_first,
                        self.step,
                        common.tensorboard,
                        common.wandb,
                        setup.options,
                    )
                )
            )
            self._bar = opened.enter_context(
                tqdm(
                    total=setup.num_steps * setup.effective_batch,
                    initial=self.step * setup.effective_batch,
                    desc=setup.folder.path.name,
                    unit="clip",
                    disable=not processes.is_first,
                    **bar_options(),
                )
            )
            self._bar.set_postfix({"epoch": self._epoch}, refresh=False)
            trace = setup.folder.trace if common.profile else None
            self._profiler = opened.enter_context(StepProfiler(trace, processes))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._opened.__exit__(*raised)

    # -----------------------------------------------------------------------------------------
    # A step
    # -----------------------------------------------------------------------------------------

    @property
    def has_steps_left(self) -> bool:
        """Whether the run has another step."""
        ended = self.step == self._setup.num_steps or self.progress.get("stopped_early", False)
        return not ended and self.stopped_by is None

    def micro_batches(self) -> Iterator[tuple[int, Sample]]:
        """The numbered micro-batches of a step that this process computes, on the CPU.

        Gradients are accumulated over them. Dropout and drop path are seeded for each.
        """
        setup, rank = self._setup, self._setup.processes.rank
        self._schedule.step_update(self.step)
        self.learning_rate = self._optimizer.param_groups[-1]["lr"]
        self._step_losses: list[Tensor] = []
        self._step_clips: list[Tensor] = []
        for number in range(setup.plan.accumulation):
            batch = self._watch.next(self._batches)
            self._step_clips.append(batch["index"])
            seed_step(setup.common.seed, self.step, number, rank)
            yield number, batch

    def backward(self, loss: Tensor, *further: Tensor) -> None:
        """Compute gradients of the loss of a micro-batch. Further losses are only logged."""
        self.engine.backward(loss)
        self.engine.step()
        self._step_losses.append(torch.stack([loss.detach(), *further]))

    def end_step(self) -> None:
        """Count a step after all of its micro-batches."""
        self.step += 1
        self._watch.count(self._setup.effective_batch)
        self._bar.update(self._setup.effective_batch)
        self._profiler.step()
        losses = torch.stack(self._step_losses).mean(dim=0)
        self._losses.add(self.step, self.learning_rate, losses, self._step_clips)

    # -----------------------------------------------------------------------------------------
    # Once in a while. Only these methods wait for the device and for other processes.
    # -----------------------------------------------------------------------------------------

    def untimed(self) -> AbstractContextManager[None]:
        """A block between two steps whose time is no part of the speed of training."""
        return self._watch.paused()

    def should_log(self, asked: bool = False) -> bool:
        """Whether losses are read after this step: after each `log_steps` steps, at the end, when a
        stop was requested, and if the loop `asked` for it."""
        setup = self._setup
        due = self.step % setup.loader.log_steps == 0 or self.step == setup.num_steps or asked
        return due or (setup.processes.world_size == 1 and self._stop.reason is not None)

    def mean_losses(self) -> list[float]:
        """The mean losses given to `backward` since the last call, see `LossWatch.mean`."""
        return self._losses.mean()

    def log(self, figures: dict[str, float], clip_flops: float, **shown: Any) -> None:
        """Write a line of the log with `figures`, and show `shown` beside the progress bar."""
        self.log_event(
            "train",
            epoch=round(self.step / self._setup.epoch_steps, 4),
            **figures,
            learning_rate=self.learning_rate,
            **self._watch.read(clip_flops),
            started=self._watch.started,
            **self._skipped(),
        )
        self._bar.set_postfix({"epoch": self._epoch, **shown}, refresh=False)

    @property
    def _epoch(self) -> str:
        """How far the run is, such as `3.4 of 10`."""
        setup = self._setup
        return f"{self.step / setup.epoch_steps:.1f} of {setup.config.epochs}"

    def _skipped(self) -> dict[str, int]:
        """Number of steps that DeepSpeed skipped in bf16 because a gradient was infinite, if
        any."""
        return {"skipped_steps": skipped} if (skipped := self.engine.skipped_steps) else {}

    def log_event(self, event: str, **figures: float | str) -> None:
        """Write a line of the log about another event than a step, such as a validation."""
        self._log.write({"event": event, "step": self.step, **figures})

    def log_picture(self, name: str, picture: np.ndarray) -> None:
        """Show a picture uint8 [H, W, 3] in TensorBoard."""
        self._log.write_picture(name, picture, self.step)

    def save_or_stop(self) -> None:
        """Save if a checkpoint is due, at the end of the run, or when a stop was requested."""
        setup, processes = self._setup, self._setup.processes
        self._watch.reset()
        save, stop = processes.from_first((self._clock.is_due(), self._stop.reason))
        if save or stop or not self.has_steps_left:
            save_checkpoint(
                self.engine, setup.folder.checkpoints, self.step, self.progress, processes
            )
            if processes.is_first:
                setup.folder.drop_replaced()
            self._clock.reset()
        if self.has_steps_left:
            self.stopped_by = stop

    def report_stop(self) -> None:
        """Print where the run stopped. After a signal, end with the exit status of Ctrl-C."""
        folder, num_steps = self._setup.folder.path, self._setup.num_steps
        self._setup.processes.say(
            f"{self.stopped_by} stopped the run at step {self.step} of {num_steps}. It is saved "
            f"in {folder}."
        )
        if self.stopped_by != "--stop-after":
            raise KeyboardInterrupt
