"""Masked pretraining: hide most of a clip, predict what is hidden.

    python -m train.pretrain --dataset toy --out out --method mofo
    torchrun --nproc-per-node 8 -m train.pretrain --dataset ssv2 --method mofo

The command reads OUT/<dataset>/frames and the boxes or flows that the mask uses. It writes the
folder OUT/<dataset>/runs/pretrain-<method>/ with options.json, log.jsonl, snapshots/ (pictures of
the predictions during training), checkpoints/, weights.safetensors and finished. If it is killed,
the same command continues from the last checkpoint at the exact sample. The toy recipe takes
minutes on two CPU cores. ViT-B on Something-Something V2 for 800 epochs is estimated at 19 hours on
one H200; this was not measured (benchmarks/README.md).

The loss is the mean squared error of normalised pixels. The loss of predicting each patch's mean
colour is about 1.0 and is printed beside it. A loss of 0.9 after some epochs means that the model
learns. For trajectories (--method mme) the loss beside it is the loss of predicting that nothing
moves and that all bins of a histogram are equal (train/objectives/trajectories.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from train.clips.few_labels import share_of_clips
from train.clips.table import read_clip_table
from train.evaluation.probe_series import ProbeSeries
from train.options.recipe import pretrain_config
from train.running.command import Common, read_common, training_options
from train.running.run_folder import RunFolder


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@training_options
@click.option(
    "--method",
    metavar="NAME",
    show_default="mofo",
    help="Name of the pretraining method, which has a table [pretrain.NAME] in the recipe.",
)
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    metavar="WEIGHTS",
    help="Start from the weights in this file or folder (.safetensors, .pth or Hugging Face "
    "folder) instead of random weights.",
)
@click.option(
    "--probe-every",
    type=click.IntRange(min=0),
    default=0,
    metavar="STEPS",
    help="Test the features on the labels of split val every so many steps, with a linear probe "
    "and k-NN. 0 never tests.",
)
@user_errors
def main(method: str | None, init: Path | None, probe_every: int, **options: Any) -> None:
    """Pretrain a masked autoencoder on the clips of split train.

    The command writes the run to OUT/DATASET/runs/pretrain-METHOD/. If the run exists already, the
    same command continues it.
    """
    common = read_common("pretrain", **options)
    if earlier := common.earlier:
        method = earlier.recorded("--method", earlier.options["method"], method)
        before = earlier.options.get("init")
        init = earlier.recorded("--init", before and Path(before), init)
    pretrain(common, method or "mofo", init, probe_every)


def pretrain(
    common: Common, method: str, init: Path | None = None, probe_every: int = 0
) -> RunFolder:
    """Run a pretraining to its end, or until a stop is requested; returns its run folder.

    Args:
        probe_every: optimiser steps between two probes of the features; 0 never probes.
    """
    # -----------------------------------------------------------------------------------------
    # Resolve
    # -----------------------------------------------------------------------------------------
    layout = DatasetLayout(common.out, common.dataset)
    tables = common.read_recipe()
    config = pretrain_config(tables, method, common.training_changes())
    loader = common.loader(tables)
    if init is not None and not init.exists():
        raise InputError("missing-file", f"--init {init}: there is no such file or folder")
    folder = RunFolder(layout.runs / (common.run or f"pretrain-{method}"))
    table = read_clip_table(
        layout, ["train"], config.needs_boxes, config.needed_motion, config.box_source
    )
    table = share_of_clips(table, config.clip_share)
    probes = ProbeSeries(layout, tables, config, probe_every)
    # These imports take seconds. They come after the checks, so that mistakes are reported at once.
    import torch

    from train.network.autoencoder import MaskedAutoencoder
    from train.objectives.pixels import masked_loss, mean_predictor_loss
    from train.pictures.snapshots import Snapshots
    from train.running.engine import whole_model
    from train.running.run_setup import set_up
    from train.running.throughput import pretraining_flops
    from train.running.training import Training
    from train.samples.datasets import PretrainDataset, token_counts
    from train.samples.loading import to_device
    from train.weights.exchange import (
        adopt_norms,
        export_safetensors,
        import_weights,
        load_autoencoder,
    )
    from train.weights.files import digest_of

    imported = None if init is None else import_weights(init)
    if imported is not None:
        config = replace(config, model=adopt_norms(config.model, imported))
    setup = set_up(
        "pretrain",
        common,
        folder,
        config,
        loader,
        table,
        method=method,
        init=str(init) if init else None,
        init_digest=digest_of(init),
    )
    if common.dry_run:
        return folder
    processes = setup.processes

    # -----------------------------------------------------------------------------------------
    # Model and data
    # -----------------------------------------------------------------------------------------
    torch.manual_seed(common.seed)
    model = MaskedAutoencoder(config.model)
    setup.print_parameters(model)
    if imported is not None:
        load_autoencoder(model, imported)
    dataset = PretrainDataset(table, config, loader, common.seed)
    snapshots = Snapshots(folder.snapshots, table, config, common.seed, setup.epoch_steps)

    with setup.open_folder() as stop:
        if stop is None:
            return folder
        mean, words = None, config.target.words

        # -------------------------------------------------------------------------------------
        # Train
        # -------------------------------------------------------------------------------------
        with Training(setup, model, dataset, stop) as training:
            while training.has_steps_left:
                for _, batch in training.micro_batches():
                    num_masked, num_decoded = token_counts(batch)
                    batch = to_device(batch, processes.device)
                    target, weight = config.target.of_batch(batch, num_decoded, config.cut)
                    predicted = training.engine(
                        batch["clips"], batch["mask"], num_masked, batch.get("decoded"), num_decoded
                    )
                    loss = masked_loss(predicted, target, weight)
                    training.backward(loss, mean_predictor_loss(target, weight))
                training.end_step()
                if processes.is_first and snapshots.is_due(training.step):
                    with training.untimed():
                        for name, picture in snapshots.take(
                            training.engine.module, training.step, processes.device
                        ).items():
                            training.log_picture(f"snapshots/{name}", picture)
                if probes.is_due(training.step, setup.num_steps):
                    with training.untimed():
                        probes.run(training, setup)
                if training.should_log():
                    mean = training.mean_losses()
                    training.log(
                        {"loss": mean[0], "mean_predictor_loss": mean[1]},
                        pretraining_flops(config.model, num_masked, num_decoded),
                        **{"loss": f"{mean[0]:.3f}", words.level: f"{mean[1]:.3f}"},
                    )
                    training.save_or_stop()
        if training.stopped_by:
            training.report_stop()
            return folder

        # -------------------------------------------------------------------------------------
        # Export weights
        # -------------------------------------------------------------------------------------
        final = whole_model(training.engine, MaskedAutoencoder(config.model))
        if processes.is_first:
            export_safetensors(folder.weights, final)
            summary: dict[str, float] = {
                "steps": setup.num_steps,
                "clips": setup.num_steps * setup.effective_batch,
            }
            if mean is not None:
                summary |= {"loss": mean[0], "mean_predictor_loss": mean[1]}
                print(
                    f"The pretraining loss is {mean[0]:.3f}; predicting {words.zeros} has the loss "
                    f"{mean[1]:.3f}."
                )
            folder.finish(summary)
            print(f"The pretrained weights are in {folder.weights}.")
        processes.wait()
    return folder


if __name__ == "__main__":
    main()
