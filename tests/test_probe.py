"""Linear probe and k-NN on frozen features, against slow loops and end to end."""

import json
import tracemalloc
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from errors import refused, refuses
from shard_fixtures import write_moving_squares
from sklearn.linear_model import LogisticRegression
from training_fixtures import TINY_RECIPE, tiny_run

import train.probe
from shared.layout import DatasetLayout
from shared.manifest import read_manifest, write_manifest
from train.clips.table import read_clip_table
from train.evaluation.fisher_vectors import FisherVectors
from train.evaluation.frozen import PENALTIES, fit_linear_probe, nearest_neighbours
from train.evaluation.scoring import _together, mean_over_views
from train.options.config import EvaluateConfig, LoaderConfig
from train.options.recipe import finetune_config, read_recipe
from train.pretrain import pretrain
from train.running.engine import Processes
from train.samples.datasets import EvaluateDataset
from train.samples.loading import to_device
from train.weights.exchange import import_weights


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> DatasetLayout:
    out = tmp_path_factory.mktemp("out")
    layout = write_moving_squares(out, num_clips=80)
    pretrain(tiny_run(out, run="pretrain-mofo", epochs=1, batch_size=8), "mofo")
    return layout


def run(layout: DatasetLayout, *more: str, code: int = 0) -> list[str]:
    arguments = [
        *("--dataset", "squares", "--out", str(layout.out), "--device", "cpu"),
        *("--recipe", str(layout.out / "tiny.toml"), "--workers", "0", *more),
    ]
    done = CliRunner().invoke(train.probe.main, arguments)
    assert done.exit_code == code, done.output
    return (done.stdout if code == 0 else done.stderr).splitlines()


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


def test_a_probe_leaves_figures_scores_and_features(layout):
    lines = run(layout)
    folder = layout.runs / "probe-mofo"
    clips = {clip.clip_id: clip for clip in read_manifest(layout.manifest)}
    for line, name in zip(lines[-2:], train.probe.BOTH, strict=True):
        title = train.probe.PROBES[name]
        metrics = json.loads((folder / f"metrics-test-{name}.json").read_text())
        assert line == f"{title}: test top-1 {metrics['top1']:.1f} %"
        assert (metrics["clips"], metrics["probe"]) == (16, name)
        with h5py.File(folder / f"scores-test-{name}.h5") as file:
            ids = [clip_id.decode() for clip_id in file["/clip/id"][:]]
            scores, labels = file["/label/probability"][:], file["/label/label"][:]
        assert ids == [name for name, clip in clips.items() if clip.split == "test"]
        assert labels.tolist() == [clips[name].label for name in ids]
        assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
        assert metrics["top1"] == pytest.approx(100 * np.mean(scores.argmax(1) == labels))


def test_a_recipe_that_nobody_named_is_named(layout):
    arguments = ["--dataset", "squares", "--out", str(layout.out), "--device", "cpu",
                 "--workers", "0", "--probe", "knn", "--run", "no-recipe"]  # fmt: skip
    done = CliRunner().invoke(train.probe.main, arguments)
    assert done.exit_code == 0, done.output
    assert "The recipe is small, because split train has 48 clips" in done.stdout
    assert not any("The recipe is" in line for line in run(layout, "--probe", "knn"))


def test_features_are_the_mean_token_of_the_frozen_encoder(layout):
    found = {}
    for pool in ("clip", "steps"):
        run(layout, "--probe", "knn", "--segments", "2", "--run", pool, "--pool", pool)
        with h5py.File(layout.runs / pool / "features-val.h5") as file:
            found[pool] = file["/feature"][:]
    config = finetune_config(read_recipe("squares", layout.out / "tiny.toml"), "mean")
    table = read_clip_table(layout, ["val"], boxes=False)
    dataset = EvaluateDataset(
        table, config.model, config.frames, EvaluateConfig("val", 2, 1), LoaderConfig(workers=0)
    )
    weights = layout.runs / "pretrain-mofo" / "weights.safetensors"
    encoder = import_weights(weights).build().encoder.eval()
    for row in (0, len(table) - 1):
        clips = to_device(dict(dataset[row]), torch.device("cpu"))["clips"]
        with torch.inference_mode():
            tokens = encoder(clips)  # two views
        assert np.allclose(found["clip"][row], tokens.mean(dim=(0, 1)), atol=1e-5)
        first, second = tokens[:, :4], tokens[:, 4:]  # of two time steps of 2 x 2 patches
        steps = [each.mean(dim=(0, 1)) for each in (first, second)]
        assert np.allclose(found["steps"][row], torch.cat(steps), atol=1e-5)


def test_features_are_used_again_and_other_ones_refused(layout):
    run(layout, "--run", "again", "--probe", "linear")
    files = sorted((layout.runs / "again").glob("features-*.h5"))
    assert [path.name for path in files] == [f"features-{s}.h5" for s in ("test", "train", "val")]
    before = [path.stat().st_mtime_ns for path in files]
    run(layout, "--run", "again", "--neighbours", "3")
    assert [path.stat().st_mtime_ns for path in files] == before
    other = run(layout, "--run", "again", "--segments", "2", code=1)
    refused(other[-1], "other-options", layout.runs / "again", "segments", "1", "2", "--overwrite")
    unused = run(layout, "--run", "again", "--probe", "linear", "--neighbours", "3", code=1)
    refused(unused[-1], "option-unused", "--neighbours", "--probe linear")
    files[0].write_bytes(b"nothing")
    refused(run(layout, "--run", "again", code=1)[-1], "damaged-file", files[0])


@pytest.mark.parametrize("pool", ["clip", "fisher"])
def test_features_of_a_probe_with_other_labels_are_taken(layout, pool):
    options = ("--probe", "linear", "--pool", pool)
    few = ("--labels-per-class", "2")
    run(layout, *options, "--run", f"{pool}-all")
    expected = run(layout, *options, *few, "--run", f"{pool}-own")
    lines = run(layout, *options, *few, "--run", f"{pool}-few", "--reuse", f"{pool}-all")
    assert [line.split()[4] for line in lines if line.startswith("reuse: ")] == [
        *("train", "test", "val")
    ]
    assert lines[-1] == expected[-1]
    folder, own = layout.runs / f"{pool}-few", layout.runs / f"{pool}-own"
    names = sorted(path.name for path in own.glob("*.h5"))
    assert names == sorted(path.name for path in folder.glob("*.h5")) and len(names) == 4
    for name in names:
        with h5py.File(folder / name) as file, h5py.File(own / name) as expected_file:
            datasets = [
                key for key in ("/clip/id", "/feature", "/label/probability") if key in file
            ]
            for key in datasets:
                values = expected_file[key][:]
                assert len(values) and np.array_equal(file[key][:], values), (name, key)
    # A probe that lacks clips lends none of this split.
    back = run(layout, *options, "--run", f"{pool}-back", "--reuse", f"{pool}-few")
    lent = [line.split()[4] for line in back if line.startswith("reuse: ")]
    assert lent == (["train"] if pool == "fisher" else []) + ["test", "val"]


def test_features_of_another_model_or_view_are_not_taken(layout):
    run(layout, "--run", "lender", "--probe", "linear")
    for options, named in (
        (("--from", "none"), ("from", "pretrain-mofo", "none")),
        (("--segments", "2"), ("segments", "1", "2")),
        (("--pool", "steps"), ("pool", "clip", "steps")),
    ):
        lines = run(layout, "--run", "borrower", "--reuse", "lender", *options, code=1)
        refused(lines[-1], "other-options", layout.runs / "lender", *named)
    assert not (layout.runs / "borrower").exists()
    lines = run(layout, "--run", "borrower", "--reuse", "pretrain-mofo", code=1)
    refused(lines[-1], "other-kind", layout.runs / "pretrain-mofo")


def test_random_weights_depend_on_the_seed(layout):
    features = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(layout, "--from", "none", "--seed", seed, "--run", name, "--probe", "knn")
        with h5py.File(layout.runs / name / "features-test.h5") as file:
            features.append(file["/feature"][:])
    assert np.array_equal(features[0], features[1])
    assert not np.allclose(features[0], features[2])
    unused = run(layout, "--from", "pretrain-mofo", "--seed", "1", code=1)
    refused(unused[-1], "option-unused", "--seed 1", "pretrain-mofo")


def test_a_probe_by_sgd_leaves_figures(layout):
    line = run(layout, "--run", "by-sgd", "--probe", "sgd", "--probe-epochs", "2")[-1]
    metrics = json.loads((layout.runs / "by-sgd" / "metrics-test-sgd.json").read_text())
    assert line == f"linear probe by SGD: test top-1 {metrics['top1']:.1f} %"
    assert metrics["epochs"] == 2 and metrics["label_learning_rate"] > 0
    unused = run(layout, "--probe-epochs", "2", code=1)
    refused(unused[-1], "option-unused", "--probe-epochs 2", "--probe both")


def test_an_attentive_probe_reads_all_tokens_and_leaves_scores(layout):
    line = run(layout, "--run", "attentive", "--probe", "attentive")[-1]
    folder = layout.runs / "attentive"
    metrics = json.loads((folder / "metrics-test-attentive.json").read_text())
    assert line == f"attentive probe: test top-1 {metrics['top1']:.1f} %"
    assert metrics["label_learning_rate"] > 0
    with h5py.File(folder / "features-test-tokens.h5") as file:
        tokens = file["/feature"][:]
    assert tokens.shape == (16, 8, 24) and tokens.dtype == np.float16
    run(layout, "--run", "attentive")  # beside it, in the same folder
    with h5py.File(folder / "features-test.h5") as file:
        mean = file["/feature"][:]
    assert np.allclose(tokens.astype(np.float32).mean(axis=1), mean, atol=2e-3)
    run(layout, "--run", "all-tokens", "--pool", "tokens")
    scores = json.loads((layout.runs / "all-tokens" / "metrics-test-knn.json").read_text())
    assert scores["clips"] == 16
    unused = run(layout, "--probe", "attentive", "--pool", "steps", code=1)
    refused(unused[-1], "option-unused", "--pool steps", "--probe attentive")


def test_fisher_vectors_are_made_of_all_clips_of_split_train(layout):
    given = ("--run", "fisher", "--pool", "fisher", "--labels-per-class", "3")
    lines = run(layout, *given)
    folder = layout.runs / "fisher"
    assert any("48 clips of train" in line for line in lines)
    for name in train.probe.BOTH:
        metrics = json.loads((folder / f"metrics-test-{name}.json").read_text())
        assert (metrics["clips"], metrics["gaussians"]) == (16, 32)
        assert 0 < metrics["axes"] <= 24
    options = json.loads((folder / "options.json").read_text())["options"]
    assert options["pool"] == "fisher" and options["clips"]["train"] == 12
    files = sorted(folder.glob("features-*.h5"))
    splits = ("test", "train", "val")
    assert [path.name for path in files] == [f"features-{split}-tokens.h5" for split in splits]
    with h5py.File(files[1]) as file:
        ids, tokens = file["/clip/id"][:], file["/feature"][:]
    assert ids.tolist() == read_clip_table(layout, ["train"], boxes=False).ids.tolist()
    assert tokens.shape == (48, 8, 24)

    before = [path.stat().st_mtime_ns for path in files]
    run(layout, *given, "--probe", "sgd", "--probe-epochs", "2")
    assert json.loads((folder / "metrics-test-sgd.json").read_text())["gaussians"] == 32
    scores = (folder / "scores-test-linear.h5").read_bytes()
    files[0].unlink()  # as if it was stopped after two of three splits
    run(layout, *given)
    assert [path.stat().st_mtime_ns for path in files[1:]] == before[1:]
    assert (folder / "scores-test-linear.h5").read_bytes() == scores

    few = ("--run", "fisher", "--labels-per-class", "3")  # its file of train has other clips
    refused(run(layout, *few, "--probe", "attentive", code=1)[-1], "other-options", "pool")
    unused = run(layout, "--probe", "attentive", "--pool", "fisher", code=1)
    refused(unused[-1], "option-unused", "--pool fisher", "--probe attentive")


def test_clips_without_a_label_change_the_mixture_alone(tmp_path, monkeypatch):
    own = write_moving_squares(tmp_path, num_clips=40)
    (tmp_path / "tiny.toml").write_text(TINY_RECIPE)
    clips = read_manifest(own.manifest)
    bare = {clip.clip_id for clip in [c for c in clips if c.split == "train"][:6]}
    write_manifest(
        own.manifest, [replace(c, label=None) if c.clip_id in bare else c for c in clips]
    )
    fitted, vectors = [], []
    fit = FisherVectors.fit
    monkeypatch.setattr(
        FisherVectors, "fit", lambda tokens, seed: fitted.append(tokens) or fit(tokens, seed)
    )
    monkeypatch.setattr(
        "train.evaluation.frozen.fit_linear_probe",
        lambda *all: vectors.append(all) or fit_linear_probe(*all),
    )
    run(own, "--from", "none", "--pool", "fisher", "--probe", "linear")
    table = read_clip_table(own, ["train"], boxes=False)
    labelled = np.array([clip_id.decode() not in bare for clip_id in table.ids])
    (tokens,), ((features, labels, *_),) = fitted, vectors
    assert len(tokens) == 24 and labelled.sum() == 18
    assert labels.tolist() == table.labels["label"][labelled].tolist()
    np.testing.assert_array_equal(features, fit(tokens, 0)(tokens[labelled]))
    assert not np.array_equal(features, fit(tokens[labelled], 0)(tokens[labelled]))


def test_fisher_vectors_of_too_many_clips_are_refused(layout, monkeypatch):
    """All clips of split train count: 48, although 4 labels are used, and 32 of test and val."""
    monkeypatch.setattr("train.evaluation.attentive.MOST_BYTES", 2 * 79 * 8 * 24)
    given = ("--pool", "fisher", "--labels-per-class", "1", "--run", "too-many")
    refused(run(layout, *given, code=1)[-1], "out-of-range", "80 clips", "--pool clip")


def test_predictions_are_those_of_the_decoder_without_a_mask(layout, tmp_path):
    options = ("--probe", "linear", "--features", "predictions")
    lines = run(layout, *options, "--pool", "fisher", "--run", "predicted")
    assert any("its predictions" in line for line in lines)
    with h5py.File(layout.runs / "predicted" / "features-val-tokens.h5") as file:
        found = file["/feature"][:]
    config = finetune_config(read_recipe("squares", layout.out / "tiny.toml"), "mean")
    table = read_clip_table(layout, ["val"], boxes=False)
    views = EvaluateConfig("val", 1, 1)
    dataset = EvaluateDataset(table, config.model, config.frames, views, LoaderConfig(workers=0))
    model = import_weights(layout.runs / "pretrain-mofo" / "weights.safetensors").build().eval()
    for index in (0, 3):
        clips = to_device(dict(dataset[index]), torch.device("cpu"))["clips"]
        with torch.no_grad():
            tokens = model.encoder_to_decoder(model.encoder(clips))
            wanted = model.decoder(tokens + model.decoder_positions, tokens.shape[1])[0]
        np.testing.assert_allclose(found[index], wanted.numpy(), atol=5e-3)  # stored in 16 bits
    # Random weights predict too; other features of one folder are refused; encoders cannot predict.
    run(layout, *options, "--from", "none", "--run", "predicted-none")
    same_folder = ("--probe", "linear", "--pool", "fisher", "--run", "predicted")
    refused(run(layout, *same_folder, code=1)[-1], "other-options", "features", "predictions")
    extractor = ("--from", "timm:resnet18", "--run", "none-such")
    refused(run(layout, *options, *extractor, code=1)[-1], "option-conflict", "timm:resnet18")


def test_features_are_cast_as_they_are_computed(layout):
    """The features of all clips are in memory once, in the type that is kept."""
    found, peak = wide_features(layout, Processes(0, 1, torch.device("cpu")))
    assert found.dtype == np.float16 and found.shape == (16, 200_000)
    assert peak < 1.5 * found.nbytes


def test_processes_put_their_features_together(layout):
    """Three processes share 16 clips: each gives what one process computes of its own."""
    alone, _ = wide_features(layout, Processes(0, 1, torch.device("cpu")))

    class Unheard(Processes):
        def gather(self, value):
            return [value]

    each = [{"f": wide_features(layout, Unheard(r, 3, torch.device("cpu")))[0]} for r in range(3)]
    assert [len(own["f"]) for own in each] == [6, 5, 5]
    assert np.array_equal(_together(each, 16)["f"], alone)


def wide_features(layout: DatasetLayout, processes: Processes) -> tuple[np.ndarray, int]:
    """A wide vector for each clip of split val, and the most bytes that NumPy took meanwhile."""
    config = finetune_config(read_recipe("squares", layout.out / "tiny.toml"), "mean")
    table = read_clip_table(layout, ["val"], boxes=False)
    loader = LoaderConfig(workers=0, micro_batch_size=2)
    dataset = EvaluateDataset(table, config.model, config.frames, EvaluateConfig("val"), loader)
    ramp = torch.linspace(0, 1, 200_000)
    model = torch.nn.Identity()

    def compute(batch):
        return {"f": batch["clips"].flatten(1).float().mean(1, keepdim=True) * ramp}

    tracemalloc.start()
    try:
        found = mean_over_views(compute, model, dataset, loader, processes, "val", np.float16)
        return found["f"], tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_model_has_the_shape_of_the_weights(layout, tmp_path):
    """A recipe for another model gives the same features: frames and labels are its alone."""
    run(layout, "--run", "own-recipe", "--probe", "knn")
    text = (layout.out / "tiny.toml").read_text()
    other = tmp_path / "other.toml"
    other.write_text(
        text.replace("width = 24", "width = 36", 1)
        .replace("image_size = 32", "image_size = 48")
        .replace("depth = 2", "depth = 1", 1)
    )
    run(layout, "--run", "other-recipe", "--probe", "knn", "--recipe", str(other))
    features = []
    for name in ("own-recipe", "other-recipe"):
        with h5py.File(layout.runs / name / "features-test.h5") as file:
            features.append(file["/feature"][:])
    assert np.array_equal(*features)
    recorded = json.loads((layout.runs / "other-recipe" / "options.json").read_text())
    assert recorded["options"]["config"]["model"]["width"] == 24


def test_on_the_split_that_would_choose_the_penalty_it_is_not_asked(layout, monkeypatch):
    given = []
    monkeypatch.setattr(
        "train.evaluation.frozen.fit_linear_probe",
        lambda *all: given.append(all[3]) or fit_linear_probe(*all),
    )
    run(layout, "--run", "on-val", "--split", "val", "--probe", "linear")
    assert given == [None]
    run(layout, "--run", "on-test", "--probe", "linear")
    assert len(given[1][1]) == 16


# ---------------------------------------------------------------------------------------------
# The classifiers
# ---------------------------------------------------------------------------------------------


def blobs(num_clips: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [n, 6] around three centres, in units that differ a thousandfold."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num_clips)
    centres = np.random.default_rng(9).normal(size=(3, 6))
    features = centres[labels] + spread * rng.normal(size=(num_clips, 6))
    return (features * np.geomspace(1e-3, 1, 6) + 5).astype(np.float32), labels


def test_more_features_than_clips_give_the_same_classifier():
    """The probe works on the axes that the clips span; scikit-learn works on all features."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    features = rng.normal(size=(40, 300)).astype(np.float32) + labels[:, None] * 0.2
    asked = rng.normal(size=(9, 300)).astype(np.float32) + 0.2
    probe = fit_linear_probe(features, labels, 3, (asked, np.arange(9) % 3))
    assert probe.basis.shape == (300, 40)
    slow = LogisticRegression(C=probe.penalty, max_iter=5000, tol=1e-8)
    slow.fit(probe.standardise(features), labels)
    expected = slow.predict_proba(probe.standardise(asked))
    assert np.allclose(probe(asked), expected, atol=2e-3)


def test_a_linear_probe_is_the_optimum_of_its_loss():
    """At the optimum the gradient of the penalised cross-entropy is zero."""
    features, labels = blobs(200, 1.0)
    probe = fit_linear_probe(features, labels, 4, blobs(80, 1.0, seed=1))
    inputs = torch.from_numpy(probe.standardise(features)).double()
    assert torch.allclose(inputs.mean(0), torch.zeros(6).double(), atol=1e-4)
    assert torch.allclose(inputs.std(0), torch.ones(6).double(), atol=1e-2)
    weight = torch.tensor(probe.model.coef_, requires_grad=True)
    bias = torch.tensor(probe.model.intercept_, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(
        inputs @ weight.double().T + bias.double(), torch.from_numpy(labels), reduction="sum"
    )
    (losses + weight.double().square().sum() / (2 * probe.penalty)).backward()
    assert weight.grad.abs().max() < 0.1 and bias.grad.abs().max() < 0.1  # of 200 clips' sum
    scores = probe(features)
    assert np.all(scores[:, 3] == 0)  # no clip has that class
    assert np.mean(scores.argmax(1) == labels) > 0.6


def test_the_penalty_is_the_one_that_held_out_clips_prefer():
    features, labels = blobs(60, 3.0)
    others, theirs = blobs(400, 3.0, seed=1)
    chosen = fit_linear_probe(features, labels, 3, (others, theirs))
    right = {}
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=5000)
        model.fit(chosen.standardise(features), labels)
        right[penalty] = np.sum(model.predict(chosen.standardise(others)) == theirs)
    assert right[chosen.penalty] >= max(right.values()) - 2  # fits are not bit for bit the same
    assert len(set(right.values())) > 1


def test_without_held_out_clips_parts_of_the_training_clips_choose():
    features, labels = blobs(100, 1.0)
    assert fit_linear_probe(features, labels, 3, None).penalty in PENALTIES
    with refuses("too-few-clips", "9 training clips", "split val", "at least 10"):
        fit_linear_probe(features[:9], labels[:9], 3, None)
    with refuses("too-few-clips", "all 100", "one class"):
        fit_linear_probe(features, np.zeros(100, int), 3, None)


@pytest.mark.parametrize("neighbours", [1, 5, 500])
def test_nearest_neighbours_agree_with_a_loop(neighbours):
    features, labels = blobs(90, 1.0)
    features -= 5
    asked = blobs(300, 1.0, seed=1)[0] - 5
    found = nearest_neighbours(features, labels, 5, asked, neighbours, 0.1)
    assert found.shape == (300, 5)
    for row in range(0, 300, 13):
        one = asked[row].astype(np.float64)
        similar = [
            (float(one @ other) / np.linalg.norm(one) / np.linalg.norm(other), label)
            for other, label in zip(features.astype(np.float64), labels, strict=True)
        ]
        votes = np.zeros(5)
        for similarity, label in sorted(similar, reverse=True)[:neighbours]:
            votes[label] += np.exp(similarity / 0.1)
        assert np.allclose(found[row], votes / votes.sum(), atol=1e-4)
