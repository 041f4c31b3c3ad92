"""Supervised finetuning of a pretrained encoder, with the mean or the motion-focused head.

    python -m train.finetune --dataset toy --out out --head mca
    python -m train.finetune --dataset toy --from none            from random weights

Reads OUT/<dataset>/frames (and boxes for --head mca) and the weights of a pretraining run, writes
OUT/<dataset>/runs/finetune-<method>-<head>/: options.json, log.jsonl, checkpoints/,
weights.safetensors, best.safetensors, finished. The best weights are those with the highest top-1
on split val; split test is not looked at here. Minutes on two CPU cores for the toy recipe.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import click
import torch
from torch.nn import functional as F
from tqdm import tqdm

from shared.errors import user_errors
from shared.layout import DatasetLayout
from shared.manifest import read_classes
from shared.randomness import counter_generator
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
from train.config import EvaluateConfig
from train.data import EvaluateDataset, FinetuneDataset
from train.engine import deepspeed_config, start_engine, start_processes, whole_model
from train.finetune_inputs import (
    build_classifier,
    count_classes,
    digest_of,
    find_weights,
    labelled,
    read_held_out,
    run_name,
)
from train.head import KINDS, parameter_counts
from train.live_log import LiveLog
from train.loading import make_loader, read_batches, to_device
from train.mca_options import mca_options, mca_settings
from train.metrics import accuracy
from train.mixing import ClipMixer
from train.optim import effective_batch, make_optimizer, make_schedule, scaled_learning_rate
from train.profiling import StepProfiler
from train.progress import Interruption, LossWatch, SaveClock, Stopwatch, seed_step
from train.recipe import evaluate_config, finetune_config
from train.run_folder import RunFolder
from train.sampler import BatchPlan, StepSampler, steps_per_epoch
from train.scoring import score_clips
from train.throughput import finetuning_flops
from train.typed_tables import to_table
from train.weights import adopt_norms, export_safetensors, import_weights, load_encoder


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@training_options
@click.option(
    "--head", type=click.Choice(KINDS), show_default="as the recipe has it", help="Pooling head."
)
@mca_options
@click.option("--method", metavar="NAME", show_default="mofo", help="Begin with run pretrain-NAME.")
@click.option(
    "--from",
    "source",
    metavar="RUN|WEIGHTS|none",
    help="Begin with another run, a file of weights (.safetensors, .pth, Hugging Face folder), or "
    "random weights (none).",
)
@user_errors
def main(head: str | None, method: str | None, source: str | None, **options: Any) -> None:
    """Finetune a classifier on the labelled clips of split train."""
    options["settings"] += mca_settings(options)
    common = read_common("finetune", **options)
    source = source or (method and f"pretrain-{method}")
    if earlier := common.earlier:
        source = earlier.keep("--from", earlier.options["from"], source)
        head = earlier.keep("--head", earlier.options["config"]["head"]["kind"], head)
    finetune(common, head, source or "pretrain-mofo")


def finetune(common: Common, head: str | None, source: str) -> RunFolder:
    """Run one finetuning to its end, or to where it is told to stop; returns its folder.

    Args:
        source: name of a pretraining run, path of weights, or "none".
    """
    # -----------------------------------------------------------------------------------------
    # Resolve
    # -----------------------------------------------------------------------------------------
    layout = DatasetLayout(common.out, common.dataset)
    tables = common.read_recipe()
    config = finetune_config(tables, head, common.training_changes())
    loader = common.loader(tables)
    weights = find_weights(layout, source)
    imported = None if weights is None else import_weights(weights)
    if imported is not None:
        config = replace(config, model=adopt_norms(config.model, imported))
    folder = RunFolder(layout.runs / (common.run or run_name(source, config.head.kind)))
    classes = read_classes(layout.classes)
    num_classes = count_classes(classes, config, layout)
    table = labelled(
        read_clip_table(layout, ["train"], config.needs_boxes, box_source=config.box_source),
        config,
        num_classes,
    )
    held_out = read_held_out(layout, config, num_classes)
    processes = start_processes(common.device)
    plan = BatchPlan.fit(config.batch_size, processes.world_size, loader.micro_batch_size)
    epoch_steps = steps_per_epoch(len(table), config.batch_size)
    num_steps = config.epochs * epoch_steps
    effective = effective_batch(config.batch_size, config.repeats)
    learning_rate = scaled_learning_rate(config.optim.base_learning_rate, effective)
    options = {
        "command": "finetune",
        "dataset": common.dataset,
        "data": table.data_digest,
        "manifest": table.manifest_digest,
        "clips": len(table),
        "from": source,
        "from_digest": digest_of(weights),
        "classes": num_classes,
        "seed": common.seed,
        "config": to_table(config),
        "evaluate": to_table(evaluate_config(tables)),
        "loader": to_table(loader),
        "device": {"kind": processes.device.type, "processes": processes.world_size},
    }
    if processes.is_first:
        print_resolved(options, folder, plan, config.repeats, learning_rate, num_steps)
        say_differences(common)
        if held_out is None:
            print("  no labelled clip of split val: the last weights count, not the best")
    if common.earlier is not None:
        common.earlier.check_input(options)
    if common.dry_run:
        return folder

    # -----------------------------------------------------------------------------------------
    # Model, optimizer, engine
    # -----------------------------------------------------------------------------------------
    torch.manual_seed(common.seed)
    model = build_classifier(config, num_classes)
    counts = ", ".join(f"{part} {count:,}" for part, count in parameter_counts(model).items())
    processes.say(f"  parameters: {counts}")
    if imported is not None:
        load_encoder(model, imported)
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
        progress: dict[str, Any] = {"step": 0, "best_top1": -1.0, "best_epoch": 0}
        if saved := complete_checkpoints(folder.checkpoints):
            progress = load_checkpoint(engine, saved[-1])
            processes.say(f"goes on from step {progress['step']} of {num_steps} ({saved[-1]})")

        # -------------------------------------------------------------------------------------
        # Data
        # -------------------------------------------------------------------------------------
        dataset = FinetuneDataset(table, classes, config, loader, common.seed)
        order = StepSampler(
            table.shard,
            plan,
            processes.rank,
            progress["step"],
            num_steps,
            common.seed,
            config.shuffle_shards,
        )
        if held_out is not None:
            one_view = EvaluateConfig(segments=1, crops=1)
            validation = EvaluateDataset(
                held_out, config.model, config.frames, one_view, loader, config.head.box
            )
        mixer = ClipMixer(config.augment, config.model, num_classes)
        watch = Stopwatch(processes)
        batches = read_batches(make_loader(dataset, order, loader, processes.uses_cuda))
        losses = LossWatch(processes, table.clip_id)
        clock = SaveClock(loader.checkpoint_minutes)
        log = LiveLog(
            folder, processes.is_first, progress["step"], common.tensorboard, common.wandb, options
        )

        # -------------------------------------------------------------------------------------
        # Train
        # -------------------------------------------------------------------------------------
        step, stops_early = progress["step"], False
        bar = tqdm(
            total=num_steps * effective,
            initial=progress["step"] * effective,
            desc=folder.path.name,
            unit="clip",
            mininterval=0.5,
            disable=not processes.is_first,
        )
        trace = StepProfiler(folder.trace if common.profile else None, processes)
        with closing(batches), closing(bar), closing(log), trace as profiler:
            while step < num_steps and not stops_early:
                schedule.step_update(step)
                rate = optimizer.param_groups[-1]["lr"]
                step_losses, step_clips = [], []
                for part in range(plan.accumulation):
                    batch = watch.next(batches)
                    step_clips.append(batch["index"])
                    batch = to_device(batch, processes.device)
                    seed_step(common.seed, step, part, processes.rank)
                    labels = {kind: batch[kind] for kind in config.labels}
                    rng = counter_generator(common.seed, "mix", step, part, processes.rank)
                    clips, inside, targets = mixer(batch["clips"], batch["inside"], labels, rng)
                    scores = engine(clips, inside)
                    loss = sum(F.cross_entropy(scores[k].float(), targets[k]) for k in targets)
                    engine.backward(loss)
                    engine.step()
                    step_losses.append(loss.detach().reshape(1))
                step += 1
                watch.count(effective)
                bar.update(effective)
                profiler.step()
                losses.add(step, rate, torch.stack(step_losses).mean(dim=0), step_clips)

                ends_epoch = step % epoch_steps == 0
                epoch = step // epoch_steps
                validates = held_out is not None and ends_epoch
                validates = validates and (epoch % config.validate_epochs == 0 or step == num_steps)
                due = step % loader.log_steps == 0 or step == num_steps or validates
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
                                "learning_rate": rate,
                                **watch.read(finetuning_flops(config.model)),
                            }
                        )
                        best = f"{progress['best_top1']:.1f}" if progress["best_epoch"] else "none"
                        bar.set_postfix(loss=f"{mean[0]:.3f}", best_val=best)
                    if validates:
                        found = score_clips(engine.module, validation, loader, processes, "val")
                        figures = accuracy(found, {k: held_out.labels[k] for k in config.labels})
                        if processes.is_first:
                            log.write(
                                {"event": "validate", "step": step, "epoch": epoch, **figures}
                            )
                        if figures["top1"] > progress["best_top1"]:
                            progress |= {"best_top1": figures["top1"], "best_epoch": epoch}
                            better = whole_model(engine, build_classifier(config, num_classes))
                            if processes.is_first:
                                export_safetensors(folder.best_weights, better)
                        waited = epoch - progress["best_epoch"]
                        stops_early = 0 < config.early_stop_epochs <= waited
                    watch.reset()
                    ends = stops_early or step == num_steps
                    if asked[0] or asked[1] or ends:
                        save_checkpoint(engine, folder.checkpoints, step, progress, processes)
                        clock.reset()
                    if asked[1] and not ends:
                        bar.close()
                        say_stopped(asked[1], step, num_steps, folder, processes)
                        return folder

        # -------------------------------------------------------------------------------------
        # Weights that leave
        # -------------------------------------------------------------------------------------
        final = whole_model(engine, build_classifier(config, num_classes))
        if processes.is_first:
            export_safetensors(folder.weights, final)
            folder.finish({**progress, "step": step, "stopped_early": stops_early})
            if held_out is not None:
                top1, epoch = progress["best_top1"], progress["best_epoch"]
                print(f"best val top-1 {top1:.1f} % in epoch {epoch}")
            print(f"finetuned on {len(table)} clips, {step // epoch_steps} epochs: {folder.path}")
        processes.wait()
    return folder


if __name__ == "__main__":
    main()
