"""--overwrite of a training run keeps the old run until the new one has saved something."""

import json
import os

import pytest
from shard_fixtures import write_moving_squares
from training_fixtures import tiny_run

from train import pretrain
from train.running.run_folder import RunFolder
from train.running.training import Training


class Killed(BaseException):
    """Ends a run as a kill does: nothing is put back."""


def state(folder):
    """Content of everything in the folder of a run, without the lock."""
    return {
        str(path.relative_to(folder.path)): path.read_bytes()
        for path in sorted(folder.path.rglob("*"))
        if path.is_file() and path != folder.lock
    }


def old_run(folder, seed=0):
    """A run that has weights to lose."""
    folder.begin({"command": "pretrain", "seed": seed}, overwrite=False)
    folder.weights.write_bytes(b"trained for weeks")
    folder.checkpoints.mkdir()
    (folder.checkpoints / "step").write_bytes(b"state")
    folder.finish({"loss": 1.0})
    return state(folder)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs" / "old")


NEW = {"command": "pretrain", "seed": 1}


def overwrite(folder):
    folder.begin(NEW, overwrite=True)
    assert not folder.is_finished and not folder.weights.exists()
    assert folder.read_options() == NEW


def run_that_fails(folder, before_it_fails=lambda: None):
    """A first run with --overwrite that ends with a MemoryError."""
    with folder.restored_on_failure(is_first=True):
        overwrite(folder)
        before_it_fails()
        raise MemoryError


def test_a_run_that_fails_before_it_saved_puts_the_old_one_back(folder):
    before = old_run(folder)
    with pytest.raises(MemoryError):
        run_that_fails(folder, lambda: folder.log.write_text("{}"))
    assert state(folder) == before
    with pytest.raises(MemoryError), folder.restored_on_failure(is_first=False):
        raise MemoryError
    assert state(folder) == before


def test_a_run_that_has_saved_is_not_taken_back(folder):
    old_run(folder)
    with pytest.raises(MemoryError):
        run_that_fails(folder, folder.drop_replaced)
    assert folder.read_options() == NEW and not folder.weights.exists()


def test_a_finished_run_replaces_all_of_the_old_one(folder):
    old_run(folder)
    overwrite(folder)
    folder.finish({"loss": 2.0})
    assert sorted(state(folder)) == ["finished", "options.json"]


def test_killed_twice_before_it_saved_the_old_run_is_still_there(folder):
    before = old_run(folder)
    for _ in range(2):
        overwrite(folder)  # without an end, as after a kill
    with pytest.raises(MemoryError):
        run_that_fails(folder)
    assert state(folder) == before


@pytest.mark.parametrize("nth", range(4))
def test_killed_while_files_are_moved(folder, monkeypatch, nth):
    """At each file, on the way out and on the way back."""
    before = old_run(folder)
    real, moves = os.replace, []

    def replace(source, target):
        if ".replaced" in str(target) or ".replaced" in str(source):
            moves.append(target)
            if len(moves) == nth + 1:
                raise Killed
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            overwrite(folder)
    folder.begin({"command": "pretrain", "seed": 0}, overwrite=False)
    assert {name: text for name, text in state(folder).items() if name != "options.json"} == {
        name: text for name, text in before.items() if name != "options.json"
    }
    moves.clear()
    before = state(folder)
    overwrite(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed), folder.restored_on_failure(is_first=True):
            raise MemoryError
    with pytest.raises(MemoryError):
        run_that_fails(folder)
    assert state(folder) == before


def test_a_pretraining_that_fails_at_its_first_step_loses_nothing(tmp_path, monkeypatch):
    write_moving_squares(tmp_path)
    folder = pretrain.pretrain(tiny_run(tmp_path, run="old", epochs=1), "videomae")
    before = state(folder)

    def fail(*_):
        raise MemoryError("the GPU is full")

    new = tiny_run(tmp_path, run="old", epochs=1, seed=9, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "backward", fail)
        with pytest.raises(MemoryError):
            pretrain.pretrain(new, "videomae")
    assert state(folder) == before
    pretrain.pretrain(new, "videomae")
    assert folder.read_options()["seed"] == 9 and folder.is_finished
    assert not folder.replaced.exists()
    assert json.loads(folder.finished.read_text())["steps"] > 0
