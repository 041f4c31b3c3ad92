"""Tests the frozen features of a pretraining run: linear probe, k-NN, attentive probe.

    python -m train.probe --dataset toy --method mofo
    python -m train.probe --dataset toy --from none            features of random weights

The model has the shape of the weights; the recipe says which frames and labels are used. The
features of a clip are the mean of its tokens (--pool clip), the means of each time step one after
another (--pool steps), all tokens one after another (--pool tokens), or the Fisher vector of its
tokens (--pool fisher), without augmentation. Tokens are those of the encoder, or what the decoder
predicts for each of them (--features predictions). Fisher vectors tell how tokens are distributed.
Their mixture of Gaussians is fitted to all clips of split train, also to those without a label.

The linear probe is a logistic regression on the labelled clips of split train. Its penalty is
chosen on split val, or by cross-validation on split train where val is missing or is the tested
split. k-NN votes among the clips of split train. The attentive probe (--probe attentive) trains a
query that attends to all tokens of a clip. --probe sgd trains the linear probe with SGD, as papers
do.

Writes OUT/<dataset>/runs/probe-<method>/: options.json, features-<split>.h5, and for each probe
metrics-<split>-<probe>.json and scores-<split>-<probe>.h5. All tokens are in
features-<split>-tokens.h5; with --pool fisher the one of split train holds all its clips, otherwise
the clips whose labels are used. A stopped probe continues with the split at which it stopped. It
takes one forward pass for each clip: a minute for the toy dataset. --reuse RUN takes the features
of a probe with other labels instead. The last lines are the results:
`linear probe: test top-1 43.1 %`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import PLURAL, SPLITS, ClassList, read_classes
from train.clips.table import ClipTable, read_clip_table
from train.evaluation.run_classes import check_same_dataset
from train.extractors.sources import find_extractor
from train.options.chosen_recipe import choose_recipe
from train.options.config import POOLS, EvaluateConfig, FinetuneConfig, LoaderConfig
from train.options.recipe import (
    evaluate_config,
    finetune_config,
    loader_config,
    parse_changes,
    read_recipe,
)
from train.running.command import (
    data_options,
    hold,
    label_options,
    label_settings,
    run_option,
    with_workers,
)
from train.running.finetune_inputs import (
    count_classes,
    find_weights,
    labelled,
    labelled_part,
    read_held_out,
    short_name,
)
from train.running.run_folder import RunFolder

if TYPE_CHECKING:
    from train.evaluation.features import FeatureModel
    from train.evaluation.fisher_vectors import FisherVectors
    from train.extractors.sources import ExtractorSource
    from train.network.model_config import ModelConfig
    from train.running.engine import Processes

PROBES = {
    "linear": "linear probe",
    "knn": "k-NN",
    "attentive": "attentive probe",
    "sgd": "linear probe by SGD",
}
BOTH = ("linear", "knn")
TOKENS = "tokens"  # the pool of an attentive probe, which learns how to pool
FISHER = "fisher"  # its vectors are made of all tokens after they are computed
ENCODER, PREDICTIONS = FEATURES = ("encoder", "predictions")
NEIGHBOURS = {"neighbours": 20, "temperature": 0.07}  # Wu et al. 2018 have 200 and 0.07
SGD_EPOCHS = 100  # papers have 100, and some 20
POSITIVE = click.IntRange(min=1)


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@data_options
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Recipe file, or a name in train/recipes/. The probe uses the frames and labels of its "
    "[finetune], and for random weights its [model].  [default: that of the dataset, or small or "
    "default by its number of clips]",
)
@click.option(
    "--method",
    metavar="NAME",
    show_default="mofo",
    help="Pretraining method whose run, pretrain-NAME, is tested.",
)
@click.option(
    "--from",
    "source",
    metavar="RUN|WEIGHTS|none",
    help="Test the features of this run, of this file of weights, of random weights (none), of a "
    "Hugging Face folder of V-JEPA 2 or Hiera, or of an image model of timm "
    "(timm:NAME=FILE.safetensors).",
)
@click.option(
    "--probe",
    "probes",
    type=click.Choice([*PROBES, "both"]),
    default="both",
    help="Classifier to train on the features: linear, knn, both of these; attentive, a learned "
    "query that attends to the tokens; or sgd, a linear classifier that is trained by SGD.",
)
@click.option(
    "--probe-epochs",
    type=POSITIVE,
    metavar="EPOCHS",
    show_default=str(SGD_EPOCHS),
    help="Epochs of the probe sgd.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    show_default="the split in the recipe",
    help="Split whose clips are tested.",
)
@click.option(
    "--features",
    type=click.Choice(FEATURES),
    show_default=ENCODER,
    help="Tokens to test: those of the encoder (encoder), or what the decoder of the pretraining "
    "predicts for each of them where nothing is masked (predictions).",
)
@click.option(
    "--pool",
    type=click.Choice(POOLS),
    show_default="clip",
    help="Average tokens over the whole clip (clip), over each time step (steps), or not at all "
    "(tokens). With steps the order in time stays, with tokens also the place in the picture. "
    "fisher makes a Fisher vector of all tokens, which says how they are distributed.",
)
@click.option(
    "--segments",
    default=1,
    type=POSITIVE,
    metavar="N",
    help="Number of views of each clip, at even distances in time.",
)
@click.option(
    "--crops",
    default=1,
    type=POSITIVE,
    metavar="N",
    help="Number of square crops of each view along the long side of the frame. 1 is the centre.",
)
@label_options
@click.option(
    "--neighbours",
    type=POSITIVE,
    metavar="K",
    show_default=str(NEIGHBOURS["neighbours"]),
    help="Number of neighbours that vote in k-NN.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    metavar="T",
    show_default=str(NEIGHBOURS["temperature"]),
    help="Temperature of k-NN: a neighbour votes with weight exp(cosine / T).",
)
@click.option(
    "--seed",
    type=int,
    metavar="N",
    show_default="0",
    help="Seed of the random weights (--from none).",
)
@click.option(
    "--reuse",
    metavar="RUN",
    help="Take the features that this probe of the same model has computed, as far as it has those "
    "of all clips of a split. Only the labels may differ.",
)
@run_option("Name of the folder that the probe writes.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Delete the content of the probe's folder, and start the probe again.",
)
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
    probe_epochs: int | None,
    split: str | None,
    features: str | None,
    pool: str | None,
    labels_per_class: int | None,
    label_share: float | None,
    label_seed: int | None,
    segments: int,
    crops: int,
    neighbours: int | None,
    temperature: float | None,
    seed: int | None,
    reuse: str | None,
    run: str | None,
    overwrite: bool,
) -> None:
    """Test the frozen features of a pretraining run with simple classifiers."""
    layout = DatasetLayout(out, dataset)
    chosen, recipe_line = choose_recipe(layout, recipe)
    tables = read_recipe(dataset, chosen)
    if source and method:
        raise InputError(
            "option-conflict", f"--from {source} and --method {method}: give only one of them"
        )
    source = source or f"pretrain-{method or 'mofo'}"
    extractor = find_extractor(source)
    is_random = source == "none" or (extractor is not None and extractor.weights is None)
    if seed is not None and not is_random:
        raise InputError(
            "option-unused",
            f"--seed {seed} has an effect only on random weights (--from none), and the weights "
            f"are those of {source}; leave it out",
        )
    knn = {"neighbours": neighbours, "temperature": temperature}
    given = {name: value for name, value in knn.items() if value is not None}
    if given and probes not in ("both", "knn"):
        raise InputError(
            "option-unused",
            f"--{' and --'.join(given)} have an effect only on k-NN, and not on --probe {probes}; "
            "leave them out",
        )
    if probe_epochs is not None and probes != "sgd":
        raise InputError(
            "option-unused",
            f"--probe-epochs {probe_epochs} has an effect only on --probe sgd, and not on --probe "
            f"{probes}; leave it out",
        )
    if pool is not None and probes == "attentive":
        raise InputError(
            "option-unused",
            f"--pool {pool} has no effect on --probe attentive, which learns how to pool; leave it "
            "out",
        )
    if features == PREDICTIONS and extractor is not None:
        raise InputError(
            "option-conflict",
            f"--features {PREDICTIONS} and --from {source}: this model has no decoder of a "
            "pretraining; leave --features out",
        )
    limits = {
        "labels_per_class": labels_per_class,
        "label_share": label_share,
        "label_seed": label_seed,
    }
    few = parse_changes(label_settings(limits))
    figures = probe(
        layout,
        RunFolder(layout.runs / (run or f"probe-{_name_of(source, extractor)}")),
        finetune_config(tables, "mean", few),
        with_workers(loader_config(tables), workers),
        source,
        EvaluateConfig(split or evaluate_config(tables).split, segments, crops),
        NEIGHBOURS | given,
        BOTH if probes == "both" else (probes,),
        seed or 0,
        device,
        overwrite,
        pool or "clip",
        probe_epochs or SGD_EPOCHS,
        features or ENCODER,
        RunFolder(layout.runs / reuse) if reuse else None,
        recipe_line,
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
    probes: tuple[str, ...] = BOTH,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    pool: str = "clip",
    sgd_epochs: int = SGD_EPOCHS,
    features_of: str = ENCODER,
    lender: RunFolder | None = None,
    recipe_line: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Compute features and test them; returns the metrics of each probe.

    Args:
        config: the frames and labels of this configuration are used, and without weights its model.
        source: name of a run, path of weights, or "none".
        views: the views of each clip, in all splits, and the split to test on.
        knn: "neighbours" and "temperature".
        features_of: "encoder" or "predictions", the tokens that are tested.
        lender: a probe of the same model whose features are used where it has them.
        recipe_line: says why the recipe was chosen, where nobody named it.
    """
    # -----------------------------------------------------------------------------------------
    # Resolve
    # -----------------------------------------------------------------------------------------
    extractor = find_extractor(source)
    weights = extractor.weights if extractor else find_weights(layout, source)
    config = replace(config, flips=())  # a probe does not augment, so no labels are swapped
    classes = read_classes(layout.classes)
    num_classes = count_classes(classes, config, layout)
    all_train = read_clip_table(layout, ["train"], boxes=False)
    learned, label_line = labelled_part(all_train, config, num_classes)
    splits = {"train": learned}
    if views.split != "train":
        tested = read_clip_table(layout, [views.split], boxes=False)
        splits[views.split] = labelled(tested, config, num_classes)
    held_out = read_held_out(layout, config, num_classes)
    if held_out is not None:
        splits["val"] = held_out  # it chooses the penalty, or it is the tested split
    _check_source(layout, source, classes, all_train)
    # Imported here, which takes seconds: what is wrong above is reported without waiting for it.
    from train.evaluation.attentive import refuse_too_many
    from train.evaluation.features import clip_features
    from train.evaluation.lent_features import check_lender, copy_features
    from train.evaluation.metrics import accuracy
    from train.evaluation.score_files import write_scores
    from train.running.engine import start_processes
    from train.samples.coded_views import check_decoding
    from train.weights.files import digest_of

    encoder, width = _frozen_model(extractor, weights, config.model, features_of, seed)
    model = encoder.config
    # The clips whose features are computed. A mixture of Gaussians needs no labels.
    computed = splits | ({"train": all_train} if pool == FISHER else {})
    if pool in (TOKENS, FISHER) or "attentive" in probes:
        count = sum(len(table) for table in computed.values())
        advice = {"advice": "give --pool clip or steps"} if pool == FISHER else {}
        refuse_too_many(count, model.num_tokens, width, **advice)
    options = {
        "command": "probe",
        "dataset": layout.dataset,
        "data": splits["train"].data_digest,
        "manifest": all_train.manifest_digest,
        "clips": {name: len(table) for name, table in splits.items()},
        "from": source,
        "from_digest": digest_of(weights),
        "seed": seed if weights is None else None,
        "classes": num_classes,
        "class_names": {kind: getattr(classes, kind) for kind in num_classes},
        "segments": views.segments,
        "crops": views.crops,
        "pool": pool,
        "config": {
            "model": model.to_dict(),
            "frames": config.frames.to_table(),
            "labels": list(config.labels),
        },
    }
    if features_of != ENCODER:
        options["features"] = features_of
    if not config.few_labels.are_all:
        options["few_labels"] = asdict(config.few_labels)
    check_lender(lender, options)
    processes = start_processes(device)
    check_decoding(loader, processes.device)
    notes = [line for line in (recipe_line, label_line) if line is not None]
    _print_summary(processes, folder, options, views, knn, probes, len(computed["train"]), notes)

    with hold(folder, processes), folder.restored_on_failure(processes.is_first):
        if processes.is_first:
            folder.begin(options, overwrite)

        # -------------------------------------------------------------------------------------
        # Features: one forward pass a clip and view, unless another probe has them
        # -------------------------------------------------------------------------------------
        pools = {TOKENS if name == "attentive" or pool == FISHER else pool for name in probes}
        copy_features(lender, folder, computed, sorted(pools), processes)
        encoder = encoder.to(processes.device)
        features = {
            (name, each): clip_features(
                folder, name, encoder, table, config, views, loader, processes, each
            )
            for each in sorted(pools)
            for name, table in computed.items()
        }
        if not processes.is_first:
            return {}
        mixture: dict[str, int] = {}
        if pool == FISHER:
            of_all = {split: features[split, TOKENS] for split in computed}
            fisher, vectors = _fisher_vectors(of_all, all_train, learned)
            features |= {(split, FISHER): values for split, values in vectors.items()}
            mixture = {"gaussians": fisher.gaussians, "axes": fisher.axes}

        # -------------------------------------------------------------------------------------
        # Probes
        # -------------------------------------------------------------------------------------
        tested, figures = splits[views.split], {}
        labels = {kind: tested.labels[kind] for kind in config.labels}
        for name in probes:
            of_pool = TOKENS if name == "attentive" else pool
            pooled = {split: features[split, of_pool] for split in splits}
            scores: dict[str, np.ndarray] = {}
            chosen: dict[str, float] = {}
            for kind in config.labels:
                scores[kind], how = _scores(
                    *(name, kind, pooled, splits, views.split, num_classes[kind]),
                    *(knn, sgd_epochs, processes, of_pool),
                )
                chosen |= {f"{kind}_{key}": value for key, value in how.items()}
            metrics = {
                "run": folder.path.name,
                "probe": name,
                "split": views.split,
                "clips": len(tested),
                **chosen,
                **(knn if name == "knn" else {}),
                **({"epochs": sgd_epochs} if name == "sgd" else {}),
                **mixture,
                **accuracy(scores, labels),
            }
            write_scores(folder.scores(f"{views.split}-{name}"), tested, scores)
            text = json.dumps(metrics, indent=1)
            write_atomically(folder.metrics(f"{views.split}-{name}"), text.encode() + b"\n")
            figures[name] = metrics
        folder.finish({f"{name}_top1": each["top1"] for name, each in figures.items()})
    return figures


def _frozen_model(
    extractor: ExtractorSource | None,
    weights: Path | None,
    config: ModelConfig,
    features_of: str,
    seed: int,
) -> tuple[FeatureModel, int]:
    """The model whose tokens are tested, and how many numbers a token has."""
    from train.evaluation.features import frozen_encoder, frozen_predictor
    from train.weights.exchange import import_weights

    if extractor is not None:
        read = extractor.read(seed, config.num_frames)
        return read, read.config.width
    if features_of == PREDICTIONS:
        predictor = frozen_predictor(config, import_weights(weights) if weights else None, seed)
        return predictor, predictor.config.output_dim
    encoder = frozen_encoder(config, import_weights(weights, "encoder") if weights else None, seed)
    return encoder, encoder.config.width


def _name_of(source: str, extractor: ExtractorSource | None) -> str:
    """The part of the name of the folder that says whose features are tested."""
    return f"{extractor.kind}-{extractor.name}" if extractor else short_name(source)


def _check_source(layout: DatasetLayout, source: str, classes: ClassList, table: ClipTable) -> None:
    """Refuse a finetuned run of this dataset if the dataset has changed since then.

    The run may have been trained on clips that would be tested.
    """
    run = RunFolder(layout.runs / source)  # also where source is a path: an absolute one wins
    if not run.options.is_file():
        run = RunFolder(Path(source))
    if run.options.is_file() and run.path.resolve().parent == layout.runs.resolve():
        options = run.read_options()
        if options.get("command") == "finetune":
            digests = table.manifest_digest, table.row_digests
            check_same_dataset(layout, run, options, classes, *digests)


def _fisher_vectors(
    tokens: dict[str, np.ndarray], all_train: ClipTable, learned: ClipTable
) -> tuple[FisherVectors, dict[str, np.ndarray]]:
    """Fit a mixture to the tokens of all clips of split train; make the vectors of each split.

    Args:
        tokens: float [n, N, D] of each split, and of all clips of split train.
        learned: the clips of split train whose vectors are made.
    """
    from train.evaluation.fisher_vectors import FisherVectors

    fisher = FisherVectors.fit(tokens["train"], seed=0)
    row_of = {clip_id: row for row, clip_id in enumerate(all_train.ids)}
    of_learned = (tokens["train"][row_of[clip_id]] for clip_id in learned.ids)  # without a copy
    return fisher, {
        split: fisher(of_learned if split == "train" else values)
        for split, values in tokens.items()
    }


def _print_summary(
    processes: Processes,
    folder: RunFolder,
    options: dict[str, Any],
    views: EvaluateConfig,
    knn: dict[str, Any],
    probes: tuple[str, ...],
    num_computed: int,
    notes: list[str],
) -> None:
    clips = ", ".join(f"{count:,} of {split}" for split, count in options["clips"].items())
    classes = ", ".join(f"{n:,} {PLURAL[kind]}" for kind, n in options["classes"].items())
    seed = options["seed"]
    rows = {
        "features of": _described(options["from"], seed)
        + (", its predictions" if "features" in options else ""),
        "clips": clips,
        "classes": classes,
        "tested on": f"split {views.split}, {views.segments} x {views.crops} views of a clip",
        "tokens": _pooling(options["pool"], probes, num_computed),
        "folder": folder.path,
    }
    if "knn" in probes:
        rows["k-NN"] = f"{knn['neighbours']} neighbours, temperature {knn['temperature']:g}"
    for name, value in rows.items():
        processes.say(f"  {name:<12}  {value}")
    for note in notes:
        processes.say(f"  {note}")


def _described(source: str, seed: int | None) -> str:
    if seed is None:
        return source
    return f"{'' if source == 'none' else f'{source}, '}random weights, seed {seed}"


def _pooling(pool: str, probes: tuple[str, ...], num_computed: int) -> str:
    if probes == ("attentive",):
        return "pooled by attention"
    if pool == TOKENS:
        return "all of them, without an average"
    if pool == FISHER:
        return f"as Fisher vectors of a mixture that is fitted to {num_computed:,} clips of train"
    return f"averaged over each {'clip' if pool == 'clip' else 'time step'}"


def _scores(
    name: str,
    kind: str,
    features: dict[str, np.ndarray],
    splits: dict[str, ClipTable],
    tested: str,
    num_classes: int,
    knn: dict[str, Any],
    sgd_epochs: int,
    processes: Processes,
    pool: str,
) -> tuple[np.ndarray, dict[str, float]]:
    """Return the scores of the tested clips for one kind of label, and what was chosen for it."""
    from train.evaluation.attentive import fit_attentive_probe
    from train.evaluation.frozen import (
        CommonScale,
        Standardiser,
        fit_linear_probe,
        nearest_neighbours,
    )
    from train.evaluation.sgd_probe import fit_sgd_probe

    labels = splits["train"].labels[kind]
    if name != "attentive":  # all tokens of a clip, if they are not averaged, are one vector
        features = {
            split: values.reshape(len(values), -1).astype(np.float32)
            for split, values in features.items()
        }
    known = features["train"], labels, num_classes
    if name == "knn":
        return nearest_neighbours(*known, features[tested], **knn, device=processes.device), {}
    held_out = None
    if "val" in splits and tested != "val":
        held_out = features["val"], splits["val"].labels[kind]
    if name == "attentive":
        attentive = fit_attentive_probe(*known, held_out, device=processes.device)
        return attentive(features[tested]), {"learning_rate": attentive.learning_rate}
    scaling = CommonScale if pool == FISHER else Standardiser
    if name == "sgd":
        by_sgd = fit_sgd_probe(
            *known, held_out, sgd_epochs, device=processes.device, scaling=scaling
        )
        return by_sgd(features[tested]), {"learning_rate": by_sgd.learning_rate}
    linear = fit_linear_probe(*known, held_out, scaling)
    return linear(features[tested]), {"inverse_penalty": linear.penalty}


if __name__ == "__main__":
    main()
