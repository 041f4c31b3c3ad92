"""Measures what descriptors are worth that a pretraining predicts without any error.

    python -m benchmarks.true_descriptors --dataset jhmdb-fold0 --out out/real \\
        --recipe benchmarks/real_video.toml --split val

The target of METHOD=descriptors is computed from the stored flow of each clip, for one window
without augmentation. A linear probe with few labels tests it as `train.probe --features
predictions` tests what a model predicts: as means over the tokens of a clip, and as Fisher vectors.
So the command says how far a better model could come, and what the pooling alone brings.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from benchmarks.descriptor_targets import plain_targets
from shared.errors import user_errors
from shared.layout import DatasetLayout
from shared.manifest import SPLITS, read_classes
from train.clips.table import ClipTable, read_clip_table
from train.evaluation.fisher_vectors import FisherVectors
from train.evaluation.frozen import CommonScale, Standardiser, fit_linear_probe
from train.options.config import FinetuneConfig, PretrainConfig
from train.options.recipe import finetune_config, pretrain_config, read_recipe
from train.running.finetune_inputs import count_classes, labelled, labelled_part

METHOD = "descriptors"


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--dataset", required=True, metavar="NAME", help="Dataset to read.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder of all datasets.")  # fmt: skip
@click.option("--recipe", type=click.Path(path_type=Path), metavar="FILE",
              help="Recipe file.  [default: that of the dataset]")  # fmt: skip
@click.option("--split", type=click.Choice(SPLITS), default="test", help="Split to test on.")
@click.option("--labels", default="5,10,0", metavar="LIST",
              help="Numbers of labelled clips of each class; 0 is all.")  # fmt: skip
@user_errors
def main(dataset: str, out: Path, recipe: Path | None, split: str, labels: str) -> None:
    layout, tables = DatasetLayout(out, dataset), read_recipe(dataset, recipe)
    pretraining, finetuning = pretrain_config(tables, METHOD), finetune_config(tables, "mean")
    classes = count_classes(read_classes(layout.classes), finetuning, layout)
    parts = {name: read_clip_table(layout, [name], False, pretraining.needed_motion)
             for name in ("train", split)}  # fmt: skip
    tested = labelled(parts[split], finetuning, classes)
    tokens = {
        "train": descriptors(parts["train"], pretraining),
        "tested": descriptors(tested, pretraining),
    }
    fisher = FisherVectors.fit(tokens["train"], seed=0)
    features = {
        "means": {name: each.mean(axis=1) for name, each in tokens.items()},
        "Fisher vectors": {name: fisher(each) for name, each in tokens.items()},
    }
    kind = finetuning.labels[0]
    print(f"{'top-1, %:':16}" + "".join(f"{name:>16}" for name in features))
    for count in map(int, labels.split(",")):
        rows = labelled_rows(parts["train"], finetuning, classes, count)
        found = []
        for name, each in features.items():
            scaling = Standardiser if name == "means" else CommonScale
            known = each["train"][rows], parts["train"].labels[kind][rows]
            probe = fit_linear_probe(*known, classes[kind], None, scaling=scaling)
            right = probe(each["tested"]).argmax(axis=1) == tested.labels[kind]
            found.append(100 * float(right.mean()))
        title = f"{count} labels" if count else "all labels"
        print(f"{title:16}" + "".join(f"{top1:16.1f}" for top1 in found), flush=True)


def descriptors(table: ClipTable, config: PretrainConfig) -> np.ndarray:
    """The descriptors of all tokens of each clip, float16 [n, N, D]; unknown numbers are 0."""
    return np.stack(
        [
            (target * (weight > 0))[0].numpy().astype(np.float16)
            for _, target, weight in plain_targets(table, config)
        ]
    )


def labelled_rows(
    table: ClipTable, config: FinetuneConfig, classes: dict[str, int], count: int
) -> list[int]:
    """The rows of the clips whose labels are used, `count` of each class or all."""
    learned, _ = labelled_part(table, replace(config, labels_per_class=count), classes)
    row_of = {clip_id: row for row, clip_id in enumerate(table.ids)}
    return [row_of[clip_id] for clip_id in learned.ids]


if __name__ == "__main__":
    main()
