"""What frozen features are worth: a linear probe and nearest neighbours, no finetuning.

    python -m train.probe --dataset toy --method mofo
    python -m train.probe --dataset toy --from none            features of random weights

Each clip's tokens are averaged into one vector (--pool clip), or those of each time step are, one
vector after another (--pool steps), without augmentation. The linear probe is a
logistic regression on the labelled clips of split train, its penalty chosen on split val (where
that is missing, or is itself what is tested on, on parts of split train); k-NN votes among the
clips of split train.

Writes OUT/<dataset>/runs/probe-<method>/: options.json, features-<split>.h5, and for each probe
metrics-<split>-<probe>.json and scores-<split>-<probe>.h5. Stopped it goes on with the split it was
at. One forward pass a clip: a minute for the toy dataset. The last lines are the figures:
`linear probe: test top-1 43.1 %`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import SPLITS, read_classes
from train.clips.table import ClipTable, read_clip_table
from train.options.config import POOLS, EvaluateConfig, FinetuneConfig, LoaderConfig
from train.options.recipe import evaluate_config, finetune_config, loader_config, read_recipe
from train.running.command import data_options, hold, run_option, with_workers
from train.running.finetune_inputs import (
    count_classes,
    find_weights,
    labelled,
    read_held_out,
    short_name,
)
from train.running.run_folder import RunFolder
from train.tables.nested import flatten

if TYPE_CHECKING:
    from train.running.engine import Processes

PROBES = {"linear": "linear probe", "knn": "k-NN"}
NEIGHBOURS = {"neighbours": 20, "temperature": 0.07}  # Wu et al. 2018 have 200 and 0.07
POSITIVE = click.IntRange(min=1)


@click.command(context_settings={"show_default": True})
@data_options
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A recipe (TOML) of your own; its [model], frames and labels of [finetune] are used.",
)
@click.option(
    "--method", metavar="NAME", show_default="mofo", help="Features of run pretrain-NAME."
)
@click.option(
    "--from",
    "source",
    metavar="RUN|WEIGHTS|none",
    help="Features of another run, a file of weights, or random weights (none).",
)
@click.option(
    "--probe",
    "probes",
    type=click.Choice([*PROBES, "both"]),
    default="both",
    help="Which classifier.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    show_default="as the recipe has it",
    help="Split to test on.",
)
@click.option(
    "--pool",
    type=click.Choice(POOLS),
    default="clip",
    help="Tokens are averaged over the clip, or over each time step: then order counts.",
)
@click.option("--segments", default=1, type=POSITIVE, metavar="N", help="Views along time.")
@click.option("--crops", default=1, type=POSITIVE, metavar="N", help="Views along the long side.")
@click.option(
    "--neighbours",
    type=POSITIVE,
    metavar="K",
    show_default=str(NEIGHBOURS["neighbours"]),
    help="That vote in k-NN.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    metavar="T",
    show_default=str(NEIGHBOURS["temperature"]),
    help="Of k-NN: neighbours vote with weight exp(cosine / T).",
)
@click.option("--seed", type=int, metavar="N", show_default="0", help="Of random weights.")
@run_option("Name of the run folder.")
@click.option("--overwrite", is_flag=True, help="Begin again, whatever the folder holds.")
@user_errors
def main(
    dataset: str,
    out: Path,
    workers: int | None,
    device: str,
    recipe: Path | None,
    method: str | None,
    source: str | None,
    probes: str,
    split: str | None,
    pool: str,
    segments: int,
    crops: int,
    neighbours: int | None,
    temperature: float | None,
    seed: int | None,
    run: str | None,
    overwrite: bool,
) -> None:
    """Test the frozen features of a pretraining run with a linear probe and k-NN."""
    layout = DatasetLayout(out, dataset)
    tables = read_recipe(dataset, recipe)
    if source and method:
        raise InputError(f"--from {source} and --method {method}: give the one or the other")
    source = source or f"pretrain-{method or 'mofo'}"
    if seed is not None and source != "none":
        raise InputError(f"--seed {seed} is of random weights (--from none), not of {source}")
    knn = {"neighbours": neighbours, "temperature": temperature}
    given = {name: value for name, value in knn.items() if value is not None}
    if given and probes == "linear":
        raise InputError(f"--{' and --'.join(given)} are of k-NN; --probe linear does not use them")
    figures = probe(
        layout,
        RunFolder(layout.runs / (run or f"probe-{short_name(source)}")),
        finetune_config(tables, "mean"),
        with_workers(loader_config(tables), workers),
        source,
        EvaluateConfig(split or evaluate_config(tables).split, segments, crops),
        NEIGHBOURS | given,
        tuple(PROBES) if probes == "both" else (probes,),
        seed or 0,
        device,
        overwrite,
        pool,
    )
    for kind, metrics in figures.items():
        print(f"{PROBES[kind]}: {metrics['split']} top-1 {metrics['top1']:.1f} %")


def probe(
    layout: DatasetLayout,
    folder: RunFolder,
    config: FinetuneConfig,
    loader: LoaderConfig,
    source: str,
    views: EvaluateConfig,
    knn: dict[str, Any],
    probes: tuple[str, ...] = tuple(PROBES),
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    pool: str = "clip",
) -> dict[str, dict[str, Any]]:
    """Extract features and test them; returns the metrics of each probe.

    Args:
        config: whose model, frames and labels are used.
        source: name of a run, path of weights, or "none".
        views: of each clip, of all splits; its split is tested on.
        knn: "neighbours" and "temperature".
    """
    # -----------------------------------------------------------------------------------------
    # Resolve
    # -----------------------------------------------------------------------------------------
    weights = find_weights(layout, source)
    config = replace(config, flips=())  # which labels they swap does not matter here
    num_classes = count_classes(read_classes(layout.classes), config, layout)
    splits = {name: _table(layout, name, config, num_classes) for name in ("train", views.split)}
    held_out = read_held_out(layout, config, num_classes)
    if held_out is not None:
        splits["val"] = held_out  # chooses the penalty, or is what is tested on
    # Imported here, which takes seconds: what is wrong above is reported without waiting for it.
    from train.evaluation.features import clip_features, frozen_encoder
    from train.evaluation.metrics import accuracy
    from train.evaluation.score_files import write_scores
    from train.running.engine import start_processes
    from train.weights.exchange import import_weights
    from train.weights.huggingface import digest_of

    imported = None if weights is None else import_weights(weights)
    encoder = frozen_encoder(config.model, imported, seed)
    options = {
        "command": "probe",
        "dataset": layout.dataset,
        "data": splits["train"].data_digest,
        "clips": {name: len(table) for name, table in splits.items()},
        "from": source,
        "from_digest": digest_of(weights),
        "seed": seed if weights is None else None,
        "classes": num_classes,
        "segments": views.segments,
        "crops": views.crops,
        "pool": pool,
        "config": {
            "model": encoder.config.to_dict(),
            "frames": config.frames.to_table(),
            "labels": list(config.labels),
        },
    }
    processes = start_processes(device)
    for key, value in {**flatten(options), **knn, "folder": folder.path}.items():
        processes.say(f"  {key:<28}  {value}")

    with hold(folder, processes), folder.restored_on_failure(processes.is_first):
        if processes.is_first:
            folder.begin(options, overwrite)
        processes.wait()

        # -------------------------------------------------------------------------------------
        # Features: one forward pass a clip and view
        # -------------------------------------------------------------------------------------
        encoder = encoder.to(processes.device)
        features = {
            name: clip_features(
                folder, name, encoder, table, config, views, loader, processes, pool
            )
            for name, table in splits.items()
        }
        if not processes.is_first:
            return {}

        # -------------------------------------------------------------------------------------
        # Probes
        # -------------------------------------------------------------------------------------
        tested, figures = splits[views.split], {}
        labels = {kind: tested.labels[kind] for kind in config.labels}
        for name in probes:
            scores: dict[str, np.ndarray] = {}
            chosen: dict[str, float] = {}
            for kind in config.labels:
                scores[kind], how = _scores(
                    name, kind, features, splits, views.split, num_classes[kind], knn, processes
                )
                chosen |= {f"{kind}_{key}": value for key, value in how.items()}
            metrics = {
                "run": folder.path.name,
                "probe": name,
                "split": views.split,
                "clips": len(tested),
                **chosen,
                **(knn if name == "knn" else {}),
                **accuracy(scores, labels),
            }
            write_scores(folder.scores(f"{views.split}-{name}"), tested, scores)
            text = json.dumps(metrics, indent=1)
            write_atomically(folder.metrics(f"{views.split}-{name}"), text.encode() + b"\n")
            figures[name] = metrics
        folder.finish({f"{name}_top1": each["top1"] for name, each in figures.items()})
    return figures


def _table(
    layout: DatasetLayout, split: str, config: FinetuneConfig, num_classes: dict[str, int]
) -> ClipTable:
    return labelled(read_clip_table(layout, [split], boxes=False), config, num_classes)


def _scores(
    name: str,
    kind: str,
    features: dict[str, np.ndarray],
    splits: dict[str, ClipTable],
    tested: str,
    num_classes: int,
    knn: dict[str, Any],
    processes: Processes,
) -> tuple[np.ndarray, dict[str, float]]:
    """Scores of the tested clips for one kind of label, and what was chosen on the way."""
    from train.evaluation.frozen import fit_linear_probe, nearest_neighbours

    labels = splits["train"].labels[kind]
    if name == "knn":
        known = features["train"], labels, num_classes
        return nearest_neighbours(*known, features[tested], **knn, device=processes.device), {}
    held_out = None
    if "val" in splits and tested != "val":
        held_out = features["val"], splits["val"].labels[kind]
    linear = fit_linear_probe(features["train"], labels, num_classes, held_out)
    return linear(features[tested]), {"inverse_penalty": linear.penalty}


if __name__ == "__main__":
    main()
