"""Checkpoints: whole or not there, three kept, and nothing in them is run."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from errors import refuses
from shard_fixtures import write_moving_squares
from training_fixtures import losses, tiny_run

from train.clips.sampler import BatchPlan
from train.network.autoencoder import MaskedAutoencoder, ModelConfig
from train.options.config import OptimConfig
from train.pretrain import pretrain
from train.running.checkpoints import (
    COMPLETE,
    complete_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from train.running.engine import deepspeed_config, start_engine, start_processes, whole_model
from train.running.optim import make_optimizer

TINY = ModelConfig(
    image_size=32, num_frames=2, width=24, depth=1, num_heads=2,
    decoder_width=12, decoder_depth=1, decoder_heads=2,
)  # fmt: skip
OPTIM = OptimConfig(base_learning_rate=0.1, betas=(0.9, 0.95), weight_decay=0.1, warmup_epochs=0.0)


@pytest.fixture(scope="module")
def processes():
    return start_processes("cpu")


def engine_of(processes, seed: int, bf16: bool = False):
    torch.manual_seed(seed)
    model = MaskedAutoencoder(TINY)
    config = deepspeed_config(BatchPlan(4, 1, 1), 1, gradient_clipping=1.0, bf16=bf16)
    return start_engine(model, make_optimizer(model, OPTIM, 0.01), config, processes.device)


def step(engine, seed: int) -> float:
    torch.manual_seed(seed)
    clips = torch.randn(4, 3, 2, 32, 32)
    mask = torch.tensor([[True, False, True, False]]).expand(4, 4)
    loss = engine(clips, mask, 2).float().square().mean()
    engine.backward(loss)
    engine.step()
    return loss.item()


@pytest.mark.parametrize("bf16", [False, True])
def test_a_restored_engine_continues_exactly(processes, tmp_path, bf16):
    engine = engine_of(processes, 0, bf16)
    for seed in range(3):
        step(engine, seed)
    tag = save_checkpoint(engine, tmp_path, 3, {"best": 1.5}, processes)
    expected = [step(engine, seed) for seed in (3, 4)]
    other = engine_of(processes, 1, bf16)
    assert load_checkpoint(other, tag) == {"best": 1.5, "step": 3}
    assert [step(other, seed) for seed in (3, 4)] == expected


def test_gradients_reach_the_optimizer_as_they_were_added_up(processes, monkeypatch):
    """Over four parts in float32, not rounded to bf16 on their way; and without a word."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY)
    config = deepspeed_config(BatchPlan(4, 1, 4), 1, gradient_clipping=0.0, bf16=True)
    optimizer = make_optimizer(model, OPTIM, 0.01)
    seen = []
    update = optimizer.step

    def watched(*arguments, **options):
        for group in optimizer.param_groups:
            seen.extend(p.grad.clone() for p in group["params"] if p.grad is not None)
        return update(*arguments, **options)

    monkeypatch.setattr(optimizer, "step", watched)
    engine = start_engine(model, optimizer, config, processes.device)
    for seed in range(4):
        step(engine, seed)
    assert seen and all(gradient.dtype == torch.float32 for gradient in seen)
    rounded = [torch.equal(gradient, gradient.bfloat16().float()) for gradient in seen]
    assert not all(rounded)


def test_an_engine_starts_without_a_word(processes, capsys):
    engine_of(processes, 0, bf16=True)
    assert capsys.readouterr().out == ""


def test_whole_weights_are_those_the_optimizer_works_on(processes):
    engine = engine_of(processes, 0, bf16=True)
    for seed in range(3):
        step(engine, seed)
    model = whole_model(engine, MaskedAutoencoder(TINY))
    for name, parameter in engine.module.named_parameters():
        full = model.get_parameter(name)
        assert parameter.dtype == torch.bfloat16 and full.dtype == torch.float32
        assert torch.equal(full.bfloat16(), parameter)
    assert any(
        not torch.equal(p, p.bfloat16().float()) for p in model.parameters() if p.requires_grad
    )


def test_three_are_kept_and_half_ones_are_passed_over(processes, tmp_path):
    engine = engine_of(processes, 0)
    for number in (1, 2, 3, 4, 5):
        save_checkpoint(engine, tmp_path, number, {}, processes)
    names = [tag.name for tag in complete_checkpoints(tmp_path)]
    assert names == ["step-00000003", "step-00000004", "step-00000005"]
    newest = tmp_path / names[-1]
    (newest / COMPLETE).unlink()  # killed before the end of a save
    assert [tag.name for tag in complete_checkpoints(tmp_path)] == names[:2]
    [state, *_] = (tmp_path / names[1]).glob("*optim_states.pt")
    os.truncate(state, 100)
    assert [tag.name for tag in complete_checkpoints(tmp_path)] == names[:1]
    save_checkpoint(engine, tmp_path, 5, {}, processes)  # over the half one
    assert [tag.name for tag in complete_checkpoints(tmp_path)] == [names[0], names[2]]
    assert complete_checkpoints(tmp_path / "nowhere") == []


def test_a_save_removes_what_kills_left(processes, tmp_path):
    engine = engine_of(processes, 0)
    own = [tmp_path / "step-00000001-mine", tmp_path / "notes"]
    for folder in (*own, tmp_path / "step-00000002", tmp_path / "step-00000004-of-3"):
        folder.mkdir()
        (folder / "mp_rank_00_model_states.pt").write_bytes(b"cut sh")
    damaged = save_checkpoint(engine, tmp_path, 3, {}, processes)
    os.truncate(next(damaged.glob("*optim_states.pt")), 100)
    newest = save_checkpoint(engine, tmp_path, 5, {}, processes)
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == {*own, newest}


class RunsCode:
    """What a stranger's checkpoint could hold."""

    def __reduce__(self):
        return os.mkdir, (str(Path(self.folder)),)

    def __init__(self, folder):
        self.folder = folder


@pytest.mark.parametrize("name", ["mp_rank_00_model_states.pt", "*_optim_states.pt"])
@pytest.mark.parametrize("plain", [False, True])
def test_a_checkpoint_runs_no_code(processes, tmp_path, name, plain):
    engine = engine_of(processes, 0)
    tag = save_checkpoint(engine, tmp_path / "run", 1, {}, processes)
    [path] = tag.glob(name)
    proof = tmp_path / "proof"
    if plain:
        path.write_bytes(pickle.dumps({"module": RunsCode(proof)}))
    else:
        content = torch.load(path, weights_only=False)
        torch.save({**content, "more": RunsCode(proof)}, path)
    with refuses("unsafe-file", path):
        load_checkpoint(engine, tag)
    assert not proof.exists()


def test_the_state_of_other_processes_is_refused(processes, tmp_path):
    engine = engine_of(processes, 0)
    tag = save_checkpoint(engine, tmp_path, 1, {}, processes)
    [state] = tag.glob("*zero_pp_rank_0*")
    shutil.copy(state, tag / state.name.replace("pp_rank_0", "pp_rank_1"))
    with refuses("other-processes", tag, "2 processes", "--processes 1"):
        load_checkpoint(engine, tag)


def test_a_run_passes_over_a_damaged_checkpoint(tmp_path):
    write_moving_squares(tmp_path, num_clips=20)
    whole = pretrain(tiny_run(tmp_path, run="whole"), "mofo")
    for _ in range(3):
        folder = pretrain(tiny_run(tmp_path, run="damaged", stop_after=0.0), "mofo")
    newest = complete_checkpoints(folder.checkpoints)[-1]
    assert newest.name == "step-00000003"
    [state] = newest.glob("*optim_states.pt")
    os.truncate(state, 1000)
    pretrain(tiny_run(tmp_path, run="damaged"), "mofo")
    assert losses(folder.log) == pytest.approx(losses(whole.log), abs=1e-6)
