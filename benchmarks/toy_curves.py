"""Draws how the main job learns from few labels: from pretrained and from random weights.

    make
    python -m benchmarks.toy_curves docs/pictures/toy-few-labels.png

The picture shows the accuracy on split val over the epochs of both finetunings, and chance.
"""

from __future__ import annotations

from pathlib import Path

import click

from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import read_classes
from train.pictures.charts import curves_chart
from train.report_sections.runs import from_random_weights, read_run, read_runs


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--dataset", default="toy", metavar="NAME", help="Dataset of the runs.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder of all datasets.")  # fmt: skip
@click.option("--run", default="finetune-velocity-mean", metavar="NAME",
              help="Finetuned run; the one from random weights is found.")  # fmt: skip
@click.argument("picture", type=click.Path(path_type=Path))
@user_errors
def main(dataset: str, out: Path, run: str, picture: Path) -> None:
    layout = DatasetLayout(out, dataset)
    finetuned = read_run(layout.runs / run)
    scratch = from_random_weights(finetuned, read_runs(layout.runs)[0])
    if scratch is None:
        raise InputError(
            "not-finished",
            f"{layout.runs} has no run with the recipe of {run} from random weights; run make",
        )
    names = {"pretrained on motion": finetuned, "random weights": scratch}
    curves = []
    for name, each in names.items():
        curves.append(each.curve("top1", "validate", name))
    chance = 100 / len(read_classes(layout.classes).label)
    chart = curves_chart(
        "Finetuning on few labels", curves, "epoch", "val top-1, %", (chance, "chance"),
        from_zero=True, width=5.0,
    )  # fmt: skip
    write_atomically(picture, chart.file())
    print(f"{picture}: {', '.join(f'{curve.name} {curve.y[-1]:.1f} %' for curve in curves)}")


if __name__ == "__main__":
    main()
