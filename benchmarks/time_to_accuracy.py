"""Compares the time to the same probe accuracy, this project against Hugging Face's VideoMAE.

    make flows DATASET=toy
    python -m benchmarks.time_to_accuracy --epochs 40

Three contenders pretrain on the toy clips by VideoMAE in fp32 on one thread: Hugging Face's
VideoMAEForPreTraining, this project's model, and this project's model that decodes half of the
hidden tokens (`decoder_mask` of a recipe). They have the same first weights, batches, masks,
optimiser and learning rates, and take turns at every step, so that a busy machine is slow for all
of them. Times are processor seconds of their steps alone; loader and probes are left out.

After each --probe-every steps a linear probe on frozen features is tested on split val. The
accuracy to reach is the mean of the last three probes of Hugging Face's model. A contender has
reached it when the mean of three probes in a row has, and its time is that of the last one. Figures
and a chart are written after each probe. 40 epochs take more than an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from benchmarks.accuracy_contenders import Contender, HuggingFace, Ours
from benchmarks.options import out_option
from benchmarks.record import RESULTS, Figure, host_kind, print_figures, write_record
from benchmarks.step_contenders import has_transformers
from shared.decoder_masks import HALF
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import read_classes
from shared.progress import bar_options
from train.clips.sampler import BatchPlan, StepSampler, steps_per_epoch
from train.clips.table import ClipTable, read_clip_table
from train.evaluation.features import compute_features
from train.evaluation.frozen import fit_linear_probe
from train.options.config import EvaluateConfig, LoaderConfig, PretrainConfig
from train.options.recipe import loader_config, pretrain_config, read_recipe
from train.pictures.charts import Curve, curves_chart
from train.running.engine import Processes
from train.samples.datasets import PretrainDataset
from train.samples.loading import make_loader, read_batches, to_device

DATASET, METHOD = "toy", "videomae"
PEER = "Hugging Face"
OURS, PART = "ours", "ours, half decoded"  # a chart has room for 28 characters
IN_A_ROW = 3  # probes whose mean counts: 300 clips of split val are few
ALONE = Processes(0, 1, torch.device("cpu"))

Probes = list[dict[str, float]]
"""Probes: clips seen, processor seconds of the steps so far, and top-1 in percent."""


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder that holds the toy dataset.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), default=40, metavar="EPOCHS",
              help="Epochs of each pretraining.")  # fmt: skip
@click.option("--probe-every", type=click.IntRange(min=1), default=74, metavar="STEPS",
              help="Steps from one probe to the next.")  # fmt: skip
@click.option("--seed", type=int, default=0, metavar="N",
              help="Seed for data order, views and masks.")  # fmt: skip
@out_option("time_to_accuracy-HOST")
@user_errors
def main(data: Path, epochs: int, probe_every: int, seed: int, out: Path | None) -> None:
    if not has_transformers():
        raise InputError(
            "missing-package", "transformers, the peer, is not installed; `make .venv` installs it"
        )
    torch.set_num_threads(1)
    layout, tables = DatasetLayout(data, DATASET), read_recipe(DATASET, None)
    config = comparable_config(tables, epochs)
    loader = loader_config(tables, {})
    table = read_clip_table(layout, ["train"], boxes=False)
    probe = Probe(layout, table, config, loader)

    # ---------------------------------------------------------------------------------------------
    # Train all contenders on the same batches
    # ---------------------------------------------------------------------------------------------
    epoch_steps = steps_per_epoch(len(table), config.batch_size)
    contenders: dict[str, Contender] = {
        PEER: HuggingFace(config, epoch_steps),
        OURS: Ours(config, epoch_steps, whole=True),
        PART: Ours(config, epoch_steps, whole=False),
    }
    curves: dict[str, Probes] = {name: [] for name in contenders}
    path = out or RESULTS / f"time_to_accuracy-{host_kind()}.json"
    num_steps = epochs * epoch_steps
    plan = BatchPlan.fit(config.batch_size, 1, config.batch_size)
    order = StepSampler(table.shard, plan, 0, 0, num_steps, seed, config.shuffle_shards)
    batches = make_loader(PretrainDataset(table, config, loader, seed), order, loader, cuda=False)
    with closing(read_batches(batches)) as stream:
        for step, batch in enumerate(
            tqdm(stream, "steps", num_steps, unit="step", **bar_options())
        ):
            batch = to_device(batch, ALONE.device)
            for contender in contenders.values():
                contender.step(step, batch)
            if (step + 1) % probe_every == 0 or step + 1 == num_steps:
                for name, contender in contenders.items():
                    seen = {"clips": (step + 1) * config.batch_size, "seconds": contender.seconds}
                    curves[name].append({**seen, "top1": probe.top1(contender)})
                write_record(path, compare(curves), curves=curves)  # a part is a result too
                write_atomically(path.with_suffix(".png"), chart(curves))

    print_figures(compare(curves))
    print(path)


def comparable_config(tables: dict[str, Any], epochs: int) -> PretrainConfig:
    """The toy recipe of VideoMAE with what Hugging Face's model has."""
    config = pretrain_config(tables, METHOD, {"epochs": epochs})
    model = replace(config.model, positions="sincos-1d", layer_norm_eps=1e-12, head_norm_eps=1e-5)
    half = replace(config.decoder_mask, kind="running_cell", options={"share": HALF})
    return replace(config, model=model, decoder_mask=half)


class Probe:
    """A linear probe on the means of each time step, fitted on split train, tested on split val."""

    def __init__(
        self, layout: DatasetLayout, known: ClipTable, config: PretrainConfig, loader: LoaderConfig
    ) -> None:
        self._frames, self._loader = config.frames, loader
        self._classes = len(read_classes(layout.classes).label)
        self._known = known
        self._tested = read_clip_table(layout, ["val"], boxes=False)

    def top1(self, contender: Contender) -> float:
        encoder = contender.encoder().eval()
        known, tested = (
            compute_features(
                encoder,
                table,
                self._frames,
                EvaluateConfig("val"),
                self._loader,
                ALONE,
                "steps",
                "",
            )
            for table in (self._known, self._tested)
        )
        contender.model.train()
        labels = self._known.labels["label"]
        scores = fit_linear_probe(known, labels, self._classes, None)(tested)
        return round(100 * float((scores.argmax(axis=1) == self._tested.labels["label"]).mean()), 2)


def compare(curves: dict[str, Probes]) -> list[Figure]:
    """Seconds of a step, the last accuracy, and the time to the accuracy of the peer."""
    wanted = mean_of_last(curves[PEER])
    reached = {name: seconds_to(curve, wanted) for name, curve in curves.items()}
    clips = {name: curve[-1]["clips"] / curve[-1]["seconds"] for name, curve in curves.items()}
    figures = []
    for name in (OURS, PART):
        figures += [
            Figure(f"{name}: pretraining", "clips/s", clips[name], PEER, clips[PEER]),
            Figure(
                f"{name}: linear probe at the end",
                "%",
                mean_of_last(curves[name]),
                PEER,
                wanted,
                note="means of the last three probes",
            ),
            Figure(
                f"{name}: time to a probe of {wanted:.1f} %",
                "s",
                reached[name],
                PEER,
                reached[PEER],
                more_is_better=False,
                note="" if reached[name] is not None else "not reached",
            ),
        ]
    return figures


def seconds_to(curve: Probes, wanted: float) -> float | None:
    """Seconds at the last of the first three probes in a row with a mean of at least `wanted`."""
    for end in range(IN_A_ROW, len(curve) + 1):
        if mean_of_last(curve[:end]) >= wanted:
            return curve[end - 1]["seconds"]
    return None


def mean_of_last(curve: Probes) -> float:
    last: Sequence[float] = [each["top1"] for each in curve[-IN_A_ROW:]]
    return sum(last) / len(last)


def chart(curves: dict[str, Probes]) -> bytes:
    """A PNG with the accuracy of probes over processor seconds."""
    lines = [
        Curve(name, [probe["seconds"] for probe in curve], [probe["top1"] for probe in curve])
        for name, curve in curves.items()
    ]
    x_label, y_label = "processor seconds of pretraining steps", "top-1 on val, %"
    return curves_chart("Linear probe", lines, x_label, y_label).file()


if __name__ == "__main__":
    main()
