"""Masked pretraining: hide most of a clip, predict what is hidden.

    python -m train.pretrain --dataset toy --out out --method mofo
    torchrun --nproc-per-node 8 -m train.pretrain --dataset ssv2 --method mofo

Reads OUT/<dataset>/frames and what the mask looks at (boxes or flows), writes
OUT/<dataset>/runs/pretrain-<method>/: options.json, log.jsonl, snapshots/ (pictures of what it
predicts as it learns), checkpoints/, weights.safetensors, finished. Killed at any point it goes on
from its last checkpoint at the exact sample. The toy recipe takes minutes on two CPU cores; ViT-B
on Something-Something V2 for 800 epochs takes weeks of one H200.

The loss is the mean squared error of normalised pixels; predicting every patch's mean colour would
score about 1.0, and that figure is printed beside it. 0.9 after some epochs means that it learns.
Of trajectories (--method mme) the figure beside it is that of predicting that all rests.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from tqdm import tqdm

from shared.errors import user_errors
from shared.layout import DatasetLayout
from train.checkpoint import complete_checkpoints, load_checkpoint, save_checkpoint
from train.clip_table import read_clip_table
from train.command import (
    Common,
    begin_run,
    hold,
    print_resolved,
    read_common,
    say_differences,
    say_stopped,
    training_options,
)
from train.compiled import compile_blocks, wants_compiling
from train.config import PretrainConfig
from train.data import PretrainDataset
from train.engine import deepspeed_config, start_engine, start_processes, whole_model
from train.finetune_inputs import digest_of
from train.head import parameter_counts
from train.live_log import LiveLog
from train.loading import make_loader, read_batches, to_device
from train.model import MaskedAutoencoder
from train.optim import effective_batch, make_optimizer, make_schedule, scaled_learning_rate
from train.profiling import StepProfiler
from train.progress import Interruption, LossWatch, SaveClock, Stopwatch, seed_step
from train.recipe import pretrain_config
from train.run_folder import RunFolder
from train.sampler import BatchPlan, StepSampler, steps_per_epoch
from train.snapshots import Snapshots
from train.targets import PIXEL_TARGETS, masked_loss, masked_targets, mean_predictor_loss
from train.targets_motion import loss_weights
from train.throughput import pretraining_flops
from train.typed_tables import to_table
from train.weights import adopt_norms, export_safetensors, import_weights, load_autoencoder


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@training_options
@click.option(
    "--method", metavar="NAME", show_default="mofo", help="A [pretrain.NAME] of the recipe."
)
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    metavar="WEIGHTS",
    help="Begin with weights, not at random (.safetensors, .pth, Hugging Face folder).",
)
@user_errors
def main(method: str | None, init: Path | None, **options: Any) -> None:
    """Pretrain a masked autoencoder on the clips of split train."""
    common = read_common("pretrain", **options)
    if earlier := common.earlier:
        method = earlier.keep("--method", earlier.options["method"], method)
        before = earlier.options.get("init")
        init = earlier.keep("--init", before and Path(before), init)
    pretrain(common, method or "mofo", init)


def pretrain(common: Common, method: str, init: Path | None = None) -> RunFolder:
    """Run one pretraining to its end, or to where it is told to stop; returns its folder."""
    # -----------------------------------------------------------------------------------------
    # Resolve
    # -----------------------------------------------------------------------------------------
    layout = DatasetLayout(common.out, common.dataset)
    tables = common.read_recipe()
    config = pretrain_config(tables, method, common.training_changes())
    imported = None if init is None else import_weights(init)
    if imported is not None:
        config = replace(config, model=adopt_norms(config.model, imported))
    loader = common.loader(tables)
    folder = RunFolder(layout.runs / (common.run or f"pretrain-{method}"))
    table = read_clip_table(
        layout, ["train"], config.needs_boxes, config.needed_motion, config.box_source
    )
    processes = start_processes(common.device)
    plan = BatchPlan.fit(config.batch_size, processes.world_size, loader.micro_batch_size)
    epoch_steps = steps_per_epoch(len(table), config.batch_size)
    num_steps = config.epochs * epoch_steps
    effective = effective_batch(config.batch_size, config.repeats)
    learning_rate = scaled_learning_rate(config.optim.base_learning_rate, effective)
    options = {
        "command": "pretrain",
        "dataset": common.dataset,
        "data": table.data_digest,
        "manifest": table.manifest_digest,
        "clips": len(table),
        "method": method,
        "init": str(init) if init else None,
        "init_digest": digest_of(init),
        "seed": common.seed,
        "config": to_table(config),
        "loader": to_table(loader),
        "device": {"kind": processes.device.type, "processes": processes.world_size},
    }
    if processes.is_first:
        print_resolved(options, folder, plan, config.repeats, learning_rate, num_steps)
        say_differences(common)
    if common.earlier is not None:
        common.earlier.check_input(options)
    if common.dry_run:
        return folder

    # -----------------------------------------------------------------------------------------
    # Model, optimizer, engine
    # -----------------------------------------------------------------------------------------
    torch.manual_seed(common.seed)
    model = MaskedAutoencoder(config.model)
    counts = ", ".join(f"{part} {count:,}" for part, count in parameter_counts(model).items())
    processes.say(f"  parameters: {counts}")
    if imported is not None:
        load_autoencoder(model, imported)
    optimizer = make_optimizer(model, config.optim, learning_rate)
    schedule = make_schedule(optimizer, config.optim, epoch_steps, num_steps, effective)

    with hold(folder, processes), Interruption(processes, common.stop_after) as stop:
        if not begin_run(folder, options, common.overwrite, processes):
            return folder
        settings = deepspeed_config(
            plan,
            config.repeats,
            config.optim.gradient_clipping,
            processes.uses_cuda,
            loader.zero_stage,
        )
        if wants_compiling(loader.compile, processes.uses_cuda):
            compile_blocks(model)
        engine = start_engine(model, optimizer, settings, processes.device)
        first_step = 0
        if saved := complete_checkpoints(folder.checkpoints):
            first_step = load_checkpoint(engine, saved[-1])["step"]
            processes.say(f"goes on from step {first_step} of {num_steps} ({saved[-1]})")

        # -------------------------------------------------------------------------------------
        # Data
        # -------------------------------------------------------------------------------------
        dataset = PretrainDataset(table, config, loader, common.seed)
        order = StepSampler(
            table.shard,
            plan,
            processes.rank,
            first_step,
            num_steps,
            common.seed,
            config.shuffle_shards,
        )
        watch = Stopwatch(processes)
        batches = read_batches(make_loader(dataset, order, loader, processes.uses_cuda))
        losses = LossWatch(processes, table.clip_id)
        clock = SaveClock(loader.checkpoint_minutes)
        snapshots = Snapshots(folder.snapshots, table, config, common.seed, epoch_steps)
        log = LiveLog(
            folder, processes.is_first, first_step, common.tensorboard, common.wandb, options
        )

        # -------------------------------------------------------------------------------------
        # Train
        # -------------------------------------------------------------------------------------
        step, mean = first_step, None
        bar = tqdm(
            total=num_steps * effective,
            initial=first_step * effective,
            desc=folder.path.name,
            unit="clip",
            mininterval=0.5,
            disable=not processes.is_first,
        )
        trace = StepProfiler(folder.trace if common.profile else None, processes)
        with closing(batches), closing(bar), closing(log), trace as profiler:
            while step < num_steps:
                schedule.step_update(step)
                rate = optimizer.param_groups[-1]["lr"]
                step_losses, step_clips = [], []
                for part in range(plan.accumulation):
                    batch = watch.next(batches)
                    num_masked = int(batch["mask"][0].sum())  # still on the CPU: nothing waits
                    step_clips.append(batch["index"])
                    batch = to_device(batch, processes.device)
                    seed_step(common.seed, step, part, processes.rank)
                    target, weight = hidden_targets(batch, config, num_masked)
                    predicted = engine(batch["clips"], batch["mask"], num_masked)
                    loss = masked_loss(predicted, target, weight)
                    engine.backward(loss)
                    engine.step()
                    beside = mean_predictor_loss(target, weight)
                    step_losses.append(torch.stack([loss.detach(), beside]))
                step += 1
                watch.count(effective)
                bar.update(effective)
                profiler.step()
                losses.add(step, rate, torch.stack(step_losses).mean(dim=0), step_clips)
                if processes.is_first and snapshots.is_due(step):
                    snapshots.take(engine.module, step, processes.device)

                due = step % loader.log_steps == 0 or step == num_steps
                if due or (processes.world_size == 1 and stop.reason):
                    # Here alone the device is waited for, and the processes agree on what to do.
                    mean = losses.mean()
                    asked = processes.from_first((clock.is_due(), stop.reason))
                    if processes.is_first:
                        log.write(
                            {
                                "event": "train",
                                "step": step,
                                "epoch": round(step / epoch_steps, 4),
                                "loss": mean[0],
                                "mean_predictor_loss": mean[1],
                                "learning_rate": rate,
                                **watch.read(pretraining_flops(config.model, num_masked)),
                            }
                        )
                        bar.set_postfix(loss=f"{mean[0]:.3f}", mean_predictor=f"{mean[1]:.3f}")
                    watch.reset()
                    if asked[0] or asked[1] or step == num_steps:
                        save_checkpoint(engine, folder.checkpoints, step, {}, processes)
                        clock.reset()
                    if asked[1] and step < num_steps:
                        bar.close()
                        say_stopped(asked[1], step, num_steps, folder, processes)
                        return folder

        # -------------------------------------------------------------------------------------
        # Weights that leave
        # -------------------------------------------------------------------------------------
        final = whole_model(engine, MaskedAutoencoder(config.model))
        if processes.is_first:
            export_safetensors(folder.weights, final)
            summary = {"steps": num_steps, "clips": num_steps * effective}
            if mean is not None:
                summary |= {"loss": mean[0], "mean_predictor_loss": mean[1]}
                print(f"pretraining loss {mean[0]:.3f} (patch-mean predictor {mean[1]:.3f})")
            folder.finish(summary)
            print(f"pretrained on {len(table)} clips, {config.epochs} epochs: {folder.weights}")
        processes.wait()
    return folder


def hidden_targets(
    batch: dict[str, Tensor], config: PretrainConfig, num_masked: int
) -> tuple[Tensor, Tensor | None]:
    """What of the masked tokens is to be predicted [B, M, D], and its weights (None: all 1)."""
    if config.trajectories is not None:
        return batch["target"], loss_weights(batch["counts"], config.trajectories, config.stride)
    target = PIXEL_TARGETS[config.target](batch["clips"], config.model)
    return masked_targets(target, batch["mask"], num_masked), None


if __name__ == "__main__":
    main()
