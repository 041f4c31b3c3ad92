"""The folder of a run: its options, its files, and whether it is finished."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.files import write_atomically
from shared.layout import DatasetLayout, is_dataset_name
from shared.run_record import write_options
from train.tables.nested import flatten

# These options may differ when a run continues: they decide speed and memory, or the evaluation.
MAY_DIFFER = ("loader", "device", "evaluate", "config.model.activation_checkpointing")
ROWS = "rows"  # the option that has the digests of the manifest's rows
# Earlier versions did not record these options, and used these values. None: the present value.
ADDED_LATER: dict[str, Any] = {
    "manifest": None,
    ROWS: None,
    "init_digest": None,
    "class_names": None,
    "config.labels_per_class": 0,
    "config.label_share": 1.0,
    "config.label_seed": 0,
    "config.model.predict_visible": False,
    "config.model.decoder_output": "linear",
    "config.target.shape": False,
    "config.box_source": "default",
    "config.mask.inside": "box",
    "config.mask.first": "motion",
    "config.mask.velocity": "clip",
    "config.mask.top": 16,
    "config.mask.before": False,
    "config.head.box": "clip",
    "config.head.inside": "box",
    "config.head.block": True,
    "config.frames.short": "spread",
    "config.frames.begins_every": 1,
    "config.augment.rand_operations": "colour",
    "config.decoder_mask.kind": "all",
    "config.clip_share": 1.0,
    "config.shuffle_frames": False,
    "config.token_share": 1.0,
    "config.trajectories.kind": "tracks",
    "config.trajectories.decoders": 1,
    "config.trajectories.fixed_hog": False,
    "config.trajectories.hog_channels": "grey",
    "config.trajectories.hog_cells": 1,
    "config.trajectories.merge": "none",
    "config.trajectories.normalise": True,
    "config.trajectories.loss_mask": True,
    "config.trajectories.centred": False,
    "config.trajectories.equal_parts": True,
}
# Defaults of METHOD in the Makefile: for the toy dataset, and for all others.
MAKE_METHOD_OF_TOY, MAKE_METHOD = "velocity", "mofo"


class RunFolder:
    """The folder OUT/<dataset>/runs/<name>/ and the paths of its files.

    Every run has options.json, log.jsonl, tensorboard/, checkpoints/, weights.safetensors and
    finished. Pretraining adds snapshots/; finetuning adds best.safetensors; evaluation adds
    metrics-<split>.json, scores-<split>.h5 and confusion-<split>.png.
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
        self.replaced = self.path / ".replaced"
        self._moving = self.path / ".replaced.part"

    def metrics(self, split: str) -> Path:
        """File of the figures of an evaluation, one per split."""
        return self.path / f"metrics-{split}.json"

    def scores(self, split: str) -> Path:
        """File of the class probabilities of every clip of an evaluation."""
        return self.path / f"scores-{split}.h5"

    def confusion(self, split: str, kind: str = "label") -> Path:
        """Picture of the confusion matrix of an evaluation, one per kind of label."""
        of_kind = "" if kind == "label" else f"-{kind}"
        return self.path / f"confusion-{split}{of_kind}.png"

    @property
    def is_finished(self) -> bool:
        return self.finished.is_file()

    def read_options(self) -> dict[str, Any]:
        """The resolved options of the run. Raises the errors of `read_record`."""
        return self.read_record()["options"]

    def read_record(self) -> dict[str, Any]:
        """Read options.json: options, command line, versions, git commit.

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
                "unknown-name",
                f"there is no run {self.path.name} in {self.path.parent}, which has: "
                f"{', '.join(known) or 'none'}{_how_to_make(self.path)}",
            ) from None
        except (ValueError, KeyError, TypeError):
            raise InputError(
                "damaged-file",
                f"{self.options} is not readable: it was damaged or edited; start the run again "
                "with --overwrite",
            ) from None

    def options_of(self, command: str, refusal: str) -> dict[str, Any]:
        """The resolved options of a run that `command` made.

        Raises:
            InputError: as `read_options`; or another command made the run. The message is then the
                path of the run and `refusal`.
        """
        options = self.read_options()
        if options.get("command") != command:
            raise InputError("other-kind", f"{self.path} {refusal}")
        return options

    def begin(
        self, options: Mapping[str, Any], overwrite: bool, keeps_finished: bool = False
    ) -> None:
        """Make the folder, or check that the run in it was started with the same options.

        Args:
            keeps_finished: keep the record of a finished run, whose results are not made again. It
                says on which machine and by which versions they were made. Only the test views in
                it are replaced, because they decide the next evaluation.

        Raises:
            InputError: it was started with other options; the message names both values.
        """
        if self._moving.exists():  # a run that was killed while it moved files
            self._move_back()
        if overwrite and self.path.exists():
            self._set_aside()
        if self.options.exists():
            self._refuse_other_options(options)
        if keeps_finished and self.is_finished:
            self._replace_views(options)
        else:
            write_options(self.options, dict(options))

    def differences(self, options: Mapping[str, Any], ignored: Iterable[str] = ()) -> list[str]:
        """The options of the run that differ from these: `KEY was VALUE and is now VALUE`.

        Args:
            ignored: options that may differ, beside MAY_DIFFER; the name of a table stands for its
                keys.
        """
        plain = json.loads(json.dumps(options, default=str))
        before, now = (_compared(each) for each in (self.read_options(), plain))
        free = set(ignored)
        return [
            f"{described(key)} was {before.get(key)!r} and is now {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if free.isdisjoint((key, key.partition(".")[0]))
            and before.get(key, _when_absent(key, now)) != now.get(key)
        ]

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as finished."""
        write_atomically(self.finished, json.dumps(summary, indent=1).encode() + b"\n")
        self.drop_replaced()

    # With --overwrite the old run stays in `replaced` until the new one has saved something: a run
    # that fails before, for want of memory or because of a damaged shard, loses nothing.

    @contextlib.contextmanager
    def restored_on_failure(self, is_first: bool) -> Iterator[None]:
        """If the block raises before anything was saved, put the replaced run back.

        Args:
            is_first: whether this is the one of several processes that does it.
        """
        try:
            yield
        except BaseException:
            if is_first and self.replaced.exists():
                self._restore()
            raise

    def drop_replaced(self) -> None:
        """Delete the run that this one replaces, because this one has saved a result."""
        shutil.rmtree(self.replaced, ignore_errors=True)

    def _set_aside(self) -> None:
        """Move everything into `replaced`, except what a run left that saved nothing itself."""
        if self.replaced.exists():  # such a run was killed: what it left is worth nothing
            self._clear()
            return
        self._moving.mkdir()
        for path in self._content():
            os.replace(path, self._moving / path.name)
        os.replace(self._moving, self.replaced)

    def _restore(self) -> None:
        self._clear()
        os.replace(self.replaced, self._moving)
        self._move_back()

    def _move_back(self) -> None:
        for path in list(self._moving.iterdir()):
            os.replace(path, self.path / path.name)
        self._moving.rmdir()

    def _clear(self) -> None:
        for path in self._content():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _content(self) -> list[Path]:
        kept = {self.lock, self.replaced, self._moving}
        return [path for path in self.path.iterdir() if path not in kept]

    def _replace_views(self, options: Mapping[str, Any]) -> None:
        record, views = self.read_record(), options.get("evaluate")
        if views != record["options"].get("evaluate"):
            record["options"]["evaluate"] = views
            write_atomically(self.options, json.dumps(record, indent=1).encode() + b"\n")

    def _refuse_other_options(self, options: Mapping[str, Any]) -> None:
        differing = self.differences(options)
        if differing:
            other_rows = any(each.startswith(f"{ROWS}.") for each in differing)
            manifest = " and the same manifest" if other_rows else ""
            raise InputError(
                "other-options",
                f"{self.path} was started with other options: {'; '.join(differing)}. Give the "
                f"same options{manifest} to continue it, --run NAME for a new run, or --overwrite "
                "to start it again",
            )


def described(key: str) -> str:
    """The name of an option, with what it stands for where the name does not say it."""
    entry, _, place = key.partition(".")
    if entry != ROWS:
        return key
    split, _, column = place.partition(".")
    plural = column if column == "clips" else f"{column}s"
    return f"{key} (the {plural} of split {split} in manifest.csv)"


def _how_to_make(run: Path) -> str:
    """The make command that makes a run of this name, for the message; empty if there is none."""
    named = re.fullmatch(r"(pretrain|finetune)-([a-z_]+?)(-mean|-mca)?", run.name)
    root = run.parent.parent
    if named is None or run.parent.name != "runs" or not is_dataset_name(root.name):
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
    """The value of an option in a run that does not record it."""
    name = key if key in ADDED_LATER else key.partition(".")[0]  # a table stands for its keys
    was = ADDED_LATER.get(name)
    return now.get(key) if name in ADDED_LATER and was is None else was


def _compared(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that must be the same when a run continues."""
    return {
        key: value
        for key, value in flatten(options).items()
        if {key, key.partition(".")[0]}.isdisjoint(MAY_DIFFER)
    }
