"""`python -m train.checkpoint`: weights in and out, runs cut short, other numbers of processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from errors import refused
from shard_fixtures import write_moving_squares
from test_pretrain import launch
from test_weights import CONFIG, autoencoder, classifier, same, videomae_names
from training_fixtures import assert_same_weights, losses, tiny_run

from shared.manifest import read_classes
from shared.run_record import RunLock
from train.checkpoint import main
from train.finetune import finetune
from train.network.autoencoder import VideoEncoder
from train.network.head_config import HeadConfig
from train.pretrain import pretrain
from train.running.checkpoints import complete_checkpoints
from train.weights.exchange import export_safetensors, import_weights
from train.weights.huggingface import export_huggingface
from train.weights.zero_partitions import read_whole_weights, reshard

SIZES = ("image_size=32", "num_frames=4", "num_heads=3", "decoder_heads=2")


def run(*arguments: object, settings: tuple[str, ...] = ()):
    given = [str(argument) for argument in arguments]
    return CliRunner().invoke(main, given + [part for s in settings for part in ("--set", s)])


def succeed(*arguments: object, settings: tuple[str, ...] = ()) -> str:
    done = run(*arguments, settings=settings)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write_moving_squares(folder, num_clips=40)
    return folder


@pytest.fixture(scope="module")
def whole(out):
    """A finished pretraining of 12 steps."""
    return pretrain(tiny_run(out, run="whole"), "mofo")


# ---------------------------------------------------------------------------------------------
# In and out
# ---------------------------------------------------------------------------------------------


def test_a_pth_is_imported_and_exported_as_a_folder(tmp_path):
    model = autoencoder()
    torch.save({"model": model.state_dict()}, tmp_path / "theirs.pth")
    target = tmp_path / "ours.safetensors"
    printed = succeed("import", tmp_path / "theirs.pth", target, settings=SIZES)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert printed == f"pretraining, {num_parameters:,} parameters, 32 tokens per clip: {target}\n"
    succeed("export", tmp_path / "ours.safetensors", tmp_path / "folder")
    succeed("import", tmp_path / "folder", tmp_path / "again.safetensors")
    for name in ("ours", "again"):
        imported = import_weights(tmp_path / f"{name}.safetensors")
        assert imported.config == CONFIG
        assert same(imported.state_dict, model.state_dict())


def test_an_encoder_alone_stays_one(tmp_path):
    torch.save({"model": VideoEncoder(CONFIG, final_norm=True).state_dict()}, tmp_path / "vit.pth")
    succeed("import", tmp_path / "vit.pth", tmp_path / "vit.safetensors", settings=SIZES[:3])
    imported = import_weights(tmp_path / "vit.safetensors")
    assert imported.kind == "encoder" and isinstance(imported.build(), VideoEncoder)
    source = tmp_path / "vit.safetensors"
    refused(run("export", source, tmp_path / "folder"), "not-supported", source, "encoder")


def test_a_classifier_is_exported_with_the_names_of_its_classes(tmp_path):
    torch.save({"module": videomae_names(classifier(label=4))}, tmp_path / "theirs.pth")
    layout = write_moving_squares(tmp_path / "out", num_clips=8)
    names = ("--classes", layout.classes)
    succeed("export", tmp_path / "theirs.pth", tmp_path / "folder", *names, settings=SIZES[:3])
    fields = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert list(fields["id2label"].values()) == read_classes(layout.classes).label
    succeed("export", tmp_path / "folder", tmp_path / "plain.safetensors")
    assert import_weights(tmp_path / "plain.safetensors").num_classes == {"label": 4}


def test_nothing_is_replaced_without_overwrite(tmp_path):
    export_safetensors(tmp_path / "a.safetensors", autoencoder())
    export_safetensors(tmp_path / "b.safetensors", autoencoder())
    before = (tmp_path / "b.safetensors").read_bytes()
    for command in ("import", "export"):
        done = run(command, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
        refused(done, "existing-output", tmp_path / "b.safetensors", "--overwrite")
    assert (tmp_path / "b.safetensors").read_bytes() == before
    succeed("import", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--overwrite")
    export_huggingface(tmp_path / "folder", autoencoder())
    done = run("export", tmp_path / "a.safetensors", tmp_path / "folder")
    refused(done, "existing-output", tmp_path / "folder", "--overwrite")


def test_what_does_not_fit_is_listed(tmp_path):
    state = autoencoder().state_dict()
    del state["decoder.norm.bias"]
    state["decoder.extra"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "theirs.pth")
    target = tmp_path / "ours.safetensors"
    theirs = tmp_path / "theirs.pth"
    listed = "missing: decoder.norm.bias", "left over: decoder.extra"
    refused(run("import", theirs, target, settings=SIZES), "other-model", theirs, *listed)
    refused(run("import", theirs, target), "missing-option", "num_heads")
    done = run("import", theirs, target, settings=(*SIZES, "colour=3"))
    refused(done, "unknown-key", "colour", "image_size")
    export_safetensors(tmp_path / "whole.safetensors", autoencoder())
    done = run("import", tmp_path / "whole.safetensors", tmp_path / "ours.bin")
    refused(done, "bad-name", tmp_path / "ours.bin", ".safetensors")
    refused(run("import", tmp_path / "no.pth", target), "missing-file", tmp_path / "no.pth")
    assert not target.exists()


def test_classes_are_refused_where_they_have_no_place(tmp_path):
    export_safetensors(tmp_path / "a.safetensors", autoencoder())
    export_safetensors(tmp_path / "mca.safetensors", classifier(HeadConfig("mca")))
    classes = write_moving_squares(tmp_path / "out", num_clips=8).classes
    given = ("--classes", classes)
    for name, target, code, named in (
        ("a", "b.safetensors", "option-unused", "--classes"),
        ("a", "folder", "other-kind", tmp_path / "a.safetensors"),
        ("mca", "folder", "not-supported", "mca"),
    ):
        source = tmp_path / f"{name}.safetensors"
        refused(run("export", source, tmp_path / target, *given), code, named)
    assert not (tmp_path / "folder").exists()


# ---------------------------------------------------------------------------------------------
# Runs of ours
# ---------------------------------------------------------------------------------------------


def test_a_finished_run_gives_its_weights(whole, tmp_path):
    succeed("import", whole.path, tmp_path / "run.safetensors")
    assert_same_weights(tmp_path / "run.safetensors", whole.weights)
    imported = import_weights(tmp_path / "run.safetensors")
    assert imported.config == import_weights(whole.weights).config


@pytest.mark.parametrize("stage", [0, 2])
def test_whatever_zero_shares_out_the_weights_are_the_same(whole, out, tmp_path, stage):
    folder = pretrain(tiny_run(out, f"loader.zero_stage={stage}", run=f"zero-{stage}"), "mofo")
    succeed("import", folder.path, tmp_path / "run.safetensors")
    assert_same_weights(tmp_path / "run.safetensors", folder.weights)
    assert_same_weights(folder.weights, whole.weights)
    if stage == 0:
        done = run("reshard", folder.path, "--processes", 2)
        refused(done, "other-processes", folder.checkpoints, "loader.zero_stage 0")


def test_a_run_cut_short_gives_those_of_its_last_checkpoint(whole, out, tmp_path):
    for _ in range(3):
        folder = pretrain(tiny_run(out, run="cut", stop_after=0.0), "mofo")
    succeed("import", folder.path, tmp_path / "newest.safetensors")
    first = complete_checkpoints(folder.checkpoints)[0]
    succeed("import", first, tmp_path / "first.safetensors")
    one, other = (import_weights(tmp_path / f"{n}.safetensors") for n in ("newest", "first"))
    assert one.config == other.config and not same(one.state_dict, other.state_dict)
    # A finetuning can start from it, as from any other file of weights.
    weights = str(tmp_path / "newest.safetensors")
    assert finetune(tiny_run(out, run="from-cut"), "mean", weights).is_finished


def test_a_finetuned_run_gives_its_classifier(out, tmp_path):
    folder = finetune(tiny_run(out, run="finetuned"), "mca", "none")
    succeed("import", folder.path, tmp_path / "run.safetensors")
    # Of a finished run these are the weights that `evaluate` tests.
    assert_same_weights(tmp_path / "run.safetensors", folder.best_weights)
    found = import_weights(tmp_path / "run.safetensors")
    expected = import_weights(folder.best_weights)
    for name in ("kind", "config", "head", "num_classes"):
        assert getattr(found, name) == getattr(expected, name)


def test_runs_that_cannot_be_read(whole, tmp_path):
    target = tmp_path / "ours.safetensors"
    run_folder = tmp_path / "run"
    shutil.copytree(whole.path, run_folder)
    done = run("import", run_folder, target, settings=("num_frames=16",))
    refused(done, "option-unused", "--set")
    tag = complete_checkpoints(run_folder / "checkpoints")[-1]
    (tag / "zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    refused(run("import", tag, target), "not-finished", tag)
    shutil.rmtree(run_folder / "checkpoints")
    refused(run("import", run_folder, target), "not-finished", run_folder)
    refused(run("reshard", tmp_path, "--processes", 2), "other-kind", tmp_path, "options.json")
    assert not target.exists()


def test_a_checkpoint_that_would_run_code_is_refused(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    tag = complete_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    path = tag / "mp_rank_00_model_states.pt"
    torch.save({"module": {}, "hook": pytest.fail}, path)
    record = json.loads((tag / "COMPLETE").read_text())
    record["files"][path.name] = path.stat().st_size
    (tag / "COMPLETE").write_text(json.dumps(record))
    done = run("import", tmp_path / "run", tmp_path / "ours.safetensors")
    refused(done, "unsafe-file", path)


# ---------------------------------------------------------------------------------------------
# Other numbers of processes
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(out, request):
    """A run stopped at step 3 of 12."""
    for _ in range(3):
        folder = pretrain(tiny_run(out, run=f"reshard-{request.node.name}", stop_after=0.0), "mofo")
    return folder


def files_of(tag: Path) -> dict[str, dict]:
    paths = [tag / "mp_rank_00_model_states.pt", *sorted(tag.glob("zero_pp_rank_*"))]
    return {path.name: torch.load(path, weights_only=False) for path in paths}


def test_to_three_processes_and_back_nothing_is_lost(stopped):
    first = complete_checkpoints(stopped.checkpoints)[-1]
    printed = succeed("reshard", stopped.path, "--processes", 3)
    three = complete_checkpoints(stopped.checkpoints)[-1]
    assert printed.startswith(str(three)) and three.name == f"{first.name}-of-3"
    assert len(list(three.glob("zero_pp_rank_*"))) == 3
    assert same(read_whole_weights(three), read_whole_weights(first))
    back = reshard(three, 1)
    before, after = files_of(first), files_of(back)
    state, parts = (
        [files.pop("mp_rank_00_model_states.pt") for files in (before, after)],
        [files.popitem()[1]["optimizer_state_dict"] for files in (before, after)],
    )
    assert same(state[0]["module"], state[1]["module"])
    assert state[0]["progress"] == state[1]["progress"]
    weights = [part["single_partition_of_fp32_groups"] for part in parts]
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    for key in ("group_paddings", "partition_count"):
        assert parts[0][key] == parts[1][key]
    for group, means in parts[0]["base_optimizer_state"]["state"].items():
        assert same(parts[1]["base_optimizer_state"]["state"][group], means)
    done = run("reshard", stopped.path, "--processes", 1)
    refused(done, "other-processes", complete_checkpoints(stopped.checkpoints)[-1], 1)


def test_a_run_in_progress_is_not_converted(stopped):
    with RunLock(stopped.lock):
        refused(run("reshard", stopped.path, "--processes", 5), "locked", stopped.path)
    assert not list(stopped.checkpoints.glob("*-of-5"))


def test_shares_are_what_the_processes_would_have_saved(stopped):
    """Three parts of seven and of ten numbers: padded to 12 in all, the end of it not saved."""
    tag = complete_checkpoints(stopped.checkpoints)[-1]
    name = "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    model = torch.load(tag / "mp_rank_00_model_states.pt", weights_only=False)
    part = torch.load(tag / name, weights_only=False)
    model["module"] = {"a": torch.zeros(3), "b": torch.zeros(2, 2), "c": torch.zeros(10)}
    model["param_shapes"] = [
        {"a": torch.Size([3]), "b": torch.Size([2, 2])}, {"c": torch.Size([10])},
    ]  # fmt: skip
    flat = [torch.arange(1.0, 8.0), torch.arange(10.0, 20.0)]
    state = part["optimizer_state_dict"]
    state["single_partition_of_fp32_groups"] = flat
    steps = torch.tensor(3.0)
    state["base_optimizer_state"]["state"] = {
        group: {"step": steps, "exp_avg": torch.cat([values * 2, torch.zeros(len(values) % 2)])}
        for group, values in enumerate(flat)
    }
    torch.save(model, tag / "mp_rank_00_model_states.pt")
    torch.save(part, tag / name)
    three = reshard(tag, 3)
    weights = read_whole_weights(three)
    assert weights["a"].tolist() == [1, 2, 3] and weights["b"].tolist() == [[4, 5], [6, 7]]
    saved = [
        torch.load(three / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", weights_only=False)
        for rank in range(3)
    ]
    states = [each["optimizer_state_dict"] for each in saved]
    found = [[w.tolist() for w in s["single_partition_of_fp32_groups"]] for s in states]
    assert found == [
        [[1, 2, 3, 4], [10, 11, 12, 13]], [[5, 6, 7], [14, 15, 16, 17]], [[], [18, 19]],
    ]  # fmt: skip
    assert [s["group_paddings"] for s in states] == [[0, 0], [1, 0], [4, 2]]
    means = [s["base_optimizer_state"]["state"][0]["exp_avg"].tolist() for s in states]
    assert means == [[2, 4, 6, 8], [10, 12, 14, 0], [0, 0, 0, 0]]
    assert all(s["base_optimizer_state"]["state"][1]["step"] == 3 for s in states)


def test_converted_there_and_back_the_run_continues_exactly(whole, stopped, out):
    reshard(reshard(complete_checkpoints(stopped.checkpoints)[-1], 2), 1)
    folder = pretrain(tiny_run(out, run=stopped.path.name), "mofo")
    assert losses(folder.log) == pytest.approx(losses(whole.log), abs=1e-6)
    assert_same_weights(folder.weights, whole.weights)


@pytest.mark.slow
def test_two_processes_go_on_with_what_one_began(whole, stopped, out):
    succeed("reshard", stopped.path, "--processes", 2)
    found = launch(out, stopped.path.name, 2)
    assert found == pytest.approx(losses(whole.log), abs=1e-5)
    one, other = (import_weights(folder.weights).state_dict for folder in (stopped, whole))
    assert max(float((one[name] - other[name]).abs().max()) for name in other) < 1e-5
