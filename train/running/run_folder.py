"""The folder of one run: what it was made with, what it has done, whether it is finished."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.files import write_atomically
from shared.layout import DATASET_NAME, DatasetLayout
from shared.run_record import write_options
from train.tables.nested import flatten

# Options that may differ when a run goes on: they decide speed and memory, or what comes after it.
FREE = ("loader", "device", "evaluate")
# Options that earlier versions did not record, and what they were then; None: whatever it is now.
LATER: dict[str, Any] = {
    "manifest": None,
    "init_digest": None,
    "class_names": None,
    "config.labels_per_class": 0,
    "config.label_share": 1.0,
    "config.label_seed": 0,
    "config.model.predict_visible": False,
}
# The Makefile's methods, where none is given: on the toy dataset, and on all others.
MAKE_METHOD_OF_TOY, MAKE_METHOD = "velocity", "mofo"


class RunFolder:
    """OUT/<dataset>/runs/<name>/.

    Files: options.json, log.jsonl, tensorboard/, checkpoints/, weights.safetensors, finished; of
    pretraining snapshots/; of finetuning best.safetensors; of evaluation metrics-<split>.json,
    scores-<split>.h5 and confusion-<split>.png.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.options = self.path / "options.json"
        self.log = self.path / "log.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.snapshots = self.path / "snapshots"
        self.trace = self.path / "trace.json"
        self.lock = self.path / ".lock"
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights.safetensors"
        self.best_weights = self.path / "best.safetensors"
        self.finished = self.path / "finished"

    def metrics(self, split: str) -> Path:
        """Figures of an evaluation, one file a split."""
        return self.path / f"metrics-{split}.json"

    def scores(self, split: str) -> Path:
        """Class probabilities of every clip of an evaluation."""
        return self.path / f"scores-{split}.h5"

    def confusion(self, split: str, kind: str = "label") -> Path:
        """The confusion matrix of an evaluation as a picture, one file a kind of label."""
        of_kind = "" if kind == "label" else f"-{kind}"
        return self.path / f"confusion-{split}{of_kind}.png"

    @property
    def is_finished(self) -> bool:
        return self.finished.is_file()

    def read_options(self) -> dict[str, Any]:
        """The resolved options of the run; raises as `read_record` does."""
        return self.read_record()["options"]

    def read_record(self) -> dict[str, Any]:
        """All of options.json: options, command line, versions, git commit.

        Raises:
            InputError: there is no such run, or its record is not readable.
        """
        try:
            record = json.loads(self.options.read_text(encoding="utf-8"))
            if not isinstance(record["options"], dict):
                raise TypeError
            return record
        except FileNotFoundError:
            known = sorted(path.parent.name for path in self.path.parent.glob("*/options.json"))
            raise InputError(
                f"no run {self.path.name} in {self.path.parent}; there are: "
                f"{', '.join(known) or 'none'}{_how_to_make(self.path)}"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.options} is not readable: it was damaged or edited; begin the run again, "
                "by its command with --overwrite"
            ) from None

    def options_of(self, command: str, refusal: str) -> dict[str, Any]:
        """The resolved options of a run of `command`.

        Raises:
            InputError: as `read_options`, or the run is of another command: its path and `refusal`.
        """
        options = self.read_options()
        if options.get("command") != command:
            raise InputError(f"{self.path} {refusal}")
        return options

    def begin(self, options: Mapping[str, Any], overwrite: bool) -> None:
        """Make the folder, or check that the run in it was begun with the same options.

        Raises:
            InputError: it was begun with others; both values are named.
        """
        if overwrite and self.path.exists():
            for path in self.path.iterdir():
                if path != self.lock:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.options.exists():
            self._refuse_other_options(options)
        write_options(self.options, dict(options))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as done."""
        write_atomically(self.finished, json.dumps(summary, indent=1).encode() + b"\n")

    def _refuse_other_options(self, options: Mapping[str, Any]) -> None:
        plain = json.loads(json.dumps(options, default=str))
        before, now = (_decisive(each) for each in (self.read_options(), plain))
        differing = [
            f"{key} is {before.get(key)!r} there and {now.get(key)!r} now"
            for key in sorted(before.keys() | now.keys())
            if before.get(key, _when_absent(key, now)) != now.get(key)
        ]
        if differing:
            raise InputError(
                f"{self.path} was begun with other options: {'; '.join(differing)}. Give the same "
                "options to go on, --run NAME for a new run, or --overwrite to begin again"
            )


def _how_to_make(run: Path) -> str:
    """For a run that is not there: the command whose own name for a run this is, if any."""
    named = re.fullmatch(r"(pretrain|finetune)-([a-z_]+?)(-mean|-mca)?", run.name)
    root = run.parent.parent
    if named is None or run.parent.name != "runs" or not DATASET_NAME.fullmatch(root.name):
        return ""
    goal, method, head = named.groups()
    if (goal == "finetune") != (head is not None):
        return ""
    arguments = "--from none" if method == "scratch" else ""
    usual = MAKE_METHOD_OF_TOY if root.name == "toy" else MAKE_METHOD
    variables = {} if arguments or method == usual else {"METHOD": method}
    variables |= {"HEAD": head.removeprefix("-")} if head else {}
    made = DatasetLayout(root.parent, root.name).make(goal, arguments, **variables)
    return f"; `{made}` makes it"


def _when_absent(key: str, now: Mapping[str, Any]) -> Any:
    """What an option was in a run that does not record it."""
    name = key if key in LATER else key.partition(".")[0]  # a table stands for its keys
    was = LATER.get(name)
    return now.get(key) if name in LATER and was is None else was


def _decisive(options: Mapping[str, Any]) -> dict[str, Any]:
    return flatten({key: value for key, value in options.items() if key not in FREE})
