"""Supervised finetuning of a pretrained encoder, with the mean or the motion-focused head.

    python -m train.finetune --dataset toy --out out --head mca
    python -m train.finetune --dataset toy --from none            from random weights
    python -m train.finetune --dataset mine --labels-per-class 10 from few labels

The command reads OUT/<dataset>/frames, the boxes for --head mca, and the weights of a pretraining
run. It writes the folder OUT/<dataset>/runs/finetune-<method>-<head>/ with options.json, log.jsonl,
checkpoints/, weights.safetensors, best.safetensors and finished. The best weights are those with
the highest top-1 on split val. Split test is not used. The toy recipe takes minutes on two CPU
cores.

Clips of split train without a label are left out, so that a pretraining can use the whole dataset
and a finetuning the labelled part. With --labels-per-class or --label-share only some labels are
used. They are the same clips in every run, and a smaller set is part of each larger one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from shared.manifest import read_classes
from shared.randomness import counter_generator
from shared.wording import counted
from train.clips.table import read_clip_table
from train.network.head_config import KINDS
from train.options.decoding import refuse_augmentation
from train.options.recipe import evaluate_config, finetune_config
from train.running.command import (
    Common,
    label_options,
    label_settings,
    mca_options,
    mca_settings,
    read_common,
    training_options,
)
from train.running.finetune_inputs import (
    count_classes,
    find_weights,
    labelled_part,
    read_held_out,
    refuse_single_clips,
    refuse_validation,
    run_name,
)
from train.running.run_folder import RunFolder
from train.tables.typed import to_table


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@training_options
@click.option(
    "--head",
    type=click.Choice(KINDS),
    show_default="from the recipe",
    help="Pooling head: mean, or mca (motion-focused multi cross attention).",
)
@mca_options
@label_options
@click.option(
    "--method",
    metavar="NAME",
    show_default="mofo",
    help="Method whose pretraining run, pretrain-NAME, gives the weights.",
)
@click.option(
    "--from",
    "source",
    metavar="RUN|WEIGHTS|none",
    help="Start from this run, from this file of weights (.safetensors, .pth or Hugging Face "
    "folder), or from random weights (none).",
)
@user_errors
def main(head: str | None, method: str | None, source: str | None, **options: Any) -> None:
    """Finetune a classifier on the labelled clips of split train."""
    options["settings"] += mca_settings(options) + label_settings(options)
    common = read_common("finetune", **options)
    if source and method:
        raise InputError(
            "option-conflict",
            f"--from {source} and --method {method} both name the weights to start from; give one "
            "of them",
        )
    source = source or (method and f"pretrain-{method}")
    if earlier := common.earlier:
        source = earlier.recorded("--from", earlier.options["from"], source)
        head = earlier.recorded("--head", earlier.options["config"]["head"]["kind"], head)
    finetune(common, head, source or "pretrain-mofo")


def finetune(common: Common, head: str | None, source: str) -> RunFolder:
    """Run a finetuning to its end, or until a stop is requested; returns its run folder.

    Args:
        source: name of a pretraining run, path of weights, or "none" for random weights.
    """
    # -----------------------------------------------------------------------------------------
    # Resolve
    # -----------------------------------------------------------------------------------------
    layout = DatasetLayout(common.out, common.dataset)
    tables = common.read_recipe()
    config = finetune_config(tables, head, common.training_changes())
    loader = common.loader(tables)
    refuse_augmentation(config.augment, loader)
    weights = find_weights(layout, source)
    folder = RunFolder(layout.runs / (common.run or run_name(source, config.head.kind)))
    classes = read_classes(layout.classes)
    num_classes = count_classes(classes, config, layout)
    table, label_line = labelled_part(
        read_clip_table(layout, ["train"], config.needs_boxes, box_source=config.box_source),
        config,
        num_classes,
    )
    held_out = read_held_out(layout, config, num_classes)
    if held_out is None:
        refuse_validation(common.settings)
    # These imports take seconds. They come after the checks, so that mistakes are reported at once.
    import torch
    from torch.nn import functional as F

    from train.evaluation.validation import Validation
    from train.running.classifier import build_classifier
    from train.running.engine import whole_model
    from train.running.run_setup import set_up
    from train.running.throughput import finetuning_flops
    from train.running.training import Training
    from train.samples.datasets import FinetuneDataset
    from train.samples.loading import to_device
    from train.samples.mixing import ClipMixer
    from train.weights.exchange import (
        adopt_norms,
        export_safetensors,
        import_weights,
        load_encoder,
    )
    from train.weights.files import digest_of

    imported = None if weights is None else import_weights(weights, "encoder")
    if imported is not None:
        config = replace(config, model=adopt_norms(config.model, imported))
    setup = set_up(
        "finetune",
        common,
        folder,
        config,
        loader,
        table,
        held_out,
        **{"from": source},
        from_digest=digest_of(weights),
        classes=num_classes,
        class_names={kind: getattr(classes, kind) for kind in num_classes},
        evaluate=to_table(evaluate_config(tables)),
    )
    refuse_single_clips(config, setup.plan.micro_size)
    processes = setup.processes
    if label_line is not None:
        processes.say(label_line)
    if held_out is None:
        processes.say(
            "Split val has no labelled clip, so that the last weights are used, and not the best."
        )
    if common.dry_run:
        return folder

    # -----------------------------------------------------------------------------------------
    # Model and data
    # -----------------------------------------------------------------------------------------
    torch.manual_seed(common.seed)
    model = build_classifier(config, num_classes)
    setup.print_parameters(model)
    if imported is not None:
        load_encoder(model, imported)
    dataset = FinetuneDataset(table, classes, config, loader, common.seed)
    validation = Validation(setup, config, held_out, num_classes)
    mixer = ClipMixer(config.augment, config.model, num_classes)

    with setup.open_folder() as stop:
        if stop is None:
            return folder

        # -------------------------------------------------------------------------------------
        # Train
        # -------------------------------------------------------------------------------------
        with Training(setup, model, dataset, stop, **validation.initial_progress()) as training:
            progress = training.progress
            while training.has_steps_left:
                for number, batch in training.micro_batches():
                    batch = to_device(batch, processes.device)
                    labels = {kind: batch[kind] for kind in config.labels}
                    key = (common.seed, "mix", training.step, number, processes.rank)
                    clips, inside, targets = mixer(
                        batch["clips"], batch["inside"], labels, counter_generator(*key)
                    )
                    scores = training.engine(clips, inside)
                    loss = torch.stack(
                        [F.cross_entropy(scores[k].float(), targets[k]) for k in targets]
                    ).sum()
                    training.backward(loss)
                training.end_step()

                validates = validation.is_due(training.step)
                if training.should_log(validates):
                    [mean] = training.mean_losses()
                    best = f"{progress['best_top1']:.1f}" if progress["best_epoch"] else "none"
                    training.log(
                        {"loss": mean},
                        finetuning_flops(config.model, config.head, config.token_share),
                        loss=f"{mean:.3f}",
                        best_val=best,
                    )
                    if validates:
                        validation.run(training)
                    training.save_or_stop()
        if training.stopped_by:
            training.report_stop()
            return folder

        # -------------------------------------------------------------------------------------
        # Export weights
        # -------------------------------------------------------------------------------------
        final = whole_model(training.engine, build_classifier(config, num_classes))
        if processes.is_first:
            export_safetensors(folder.weights, final)
            folder.finish({**progress, "step": training.step})
            if held_out is not None:
                top1, epoch = progress["best_top1"], progress["best_epoch"]
                print(f"The best val top-1 is {top1:.1f} %, in epoch {epoch}.")
            epochs = counted(training.step // setup.epoch_steps, "epoch")
            print(f"Finetuning ended after {epochs}. The weights are in {folder.path}.")
        processes.wait()
    return folder


if __name__ == "__main__":
    main()
