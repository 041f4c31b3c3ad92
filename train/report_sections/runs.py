"""Reads the run folders of a dataset for the report: records, logs, metrics and scores."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.manifest import (
    PLURAL,
    SPLITS,
    manifest_digest,
    read_classes,
    read_manifest,
    row_digests,
)
from shared.run_record import read_jsonl
from train.evaluation.run_classes import check_same_dataset
from train.evaluation.score_files import Scores, read_scores
from train.objectives.registry import loss_words, recorded_target
from train.objectives.target import LossWords
from train.pictures.charts import Curve
from train.report_sections.clips import MaskSettings
from train.running.log_times import training_seconds
from train.running.run_folder import RunFolder
from train.tables.typed import is_number


@dataclass(frozen=True)
class Run:
    """One run folder. What the folder lacks is empty.

    Attributes:
        folder: the folder.
        record: options.json: command, options, versions, git_commit.
        events: lines of log.jsonl.
        metrics: results of the evaluation on `tested_split`, or None.
        modified: time at which its log or metrics last changed, in seconds since 1970.
        outdated: why its classes and clips are not those of the dataset, or "".
    """

    folder: RunFolder
    record: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] | None = None
    modified: float = 0.0
    outdated: str = ""

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def options(self) -> dict[str, Any]:
        return self.record["options"]

    @property
    def kind(self) -> str:
        """The command that wrote the run: "pretrain", "finetune" or another one."""
        return str(self.options.get("command", "unknown"))

    def option(self, *path: str) -> Any:
        """A value of the resolved options, such as option("config", "epochs"), or None."""
        value: Any = self.options
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def curve(self, key: str, event: str = "train", name: str = "") -> Curve:
        """A number of the log over epochs. A step that was repeated after a kill counts once."""
        points = {
            line["epoch"]: line[key]
            for line in self.events
            if line.get("event") == event
            and is_number(line.get(key))
            and is_number(line.get("epoch"))
        }
        epochs = sorted(points)
        return Curve(name or self.name, epochs, [points[epoch] for epoch in epochs])

    def last(self, key: str, event: str = "train") -> float | None:
        values = self.curve(key, event).y
        return values[-1] if values else None

    def best(self, key: str, event: str) -> float | None:
        return max(self.curve(key, event).y, default=None)

    @property
    def minutes(self) -> float | None:
        """Minutes of training over all starts; None if the log has no times."""
        seconds = training_seconds(self.events)
        return seconds / 60 if seconds else None

    @property
    def tested_split(self) -> str:
        """The split that the recipe tests on. Some datasets do not publish labels of split test."""
        split = self.option("evaluate", "split")
        return split if split in SPLITS else "test"

    @property
    def picture(self) -> str:
        """How predictions of a pretraining run are drawn: "pixels", "tracks", or "" for not."""
        target = recorded_target(self.option("config") or {})
        return target.picture if target else ""

    @property
    def loss_words(self) -> LossWords:
        """The words that name the target of a pretraining run."""
        config = self.option("config")
        return loss_words(config if isinstance(config, dict) else {})

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes of a finetuned run by kind of label."""
        kinds = self.option("classes")
        counts = kinds.items() if isinstance(kinds, dict) else ()
        return {kind: int(n) for kind, n in counts if kind in PLURAL and is_number(n) and n > 0}

    @property
    def chance(self) -> float | None:
        """Top-1 of guessing, in percent; with verbs and nouns, of guessing both."""
        counts = self.num_classes.values()
        return 100 / math.prod(counts) if counts else None

    @property
    def test_top1(self) -> float | None:
        """Top-1 on `tested_split`, in percent; None if the run was not tested on it."""
        value = (self.metrics or {}).get("top1")
        return value if is_number(value) else None


def read_run(path: Path) -> Run:
    """Read one run folder.

    Raises:
        InputError: there is no run, or its files are damaged.
    """
    folder = RunFolder(path)
    record = folder.read_record()
    try:
        events = [line for line in read_jsonl(folder.log) if isinstance(line, dict)]
        run = Run(folder, record, events)
        path = folder.metrics(run.tested_split)
        metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if not isinstance(metrics, dict | None):
            raise ValueError(f"{path.name} must be an object")
    except ValueError as error:
        raise InputError(
            "damaged-file", f"run {folder.path.name} cannot be read: {error}"
        ) from None
    files = [file for file in (folder.log, path) if file.is_file()]
    modified = max((file.stat().st_mtime for file in files), default=0.0)
    return replace(run, metrics=metrics, modified=modified)


def read_runs(runs: Path) -> tuple[list[Run], list[str]]:
    """Read all runs of a dataset in order of their names, and a line for each unreadable one."""
    found, unreadable = [], []
    for path in sorted(runs.glob("*/options.json")):
        try:
            found.append(read_run(path.parent))
        except InputError as error:
            unreadable.append(str(error))
    return found, unreadable


def without_outdated_results(
    layout: DatasetLayout, runs: list[Run], named: str | None
) -> list[Run]:
    """Leave out the results of finetuned runs whose dataset has changed since.

    Args:
        named: the run that the user asked for.

    Raises:
        InputError: the named run is one of them; see `check_same_dataset`.
    """
    try:
        classes, clips = read_classes(layout.classes), read_manifest(layout.manifest)
    except InputError:
        return runs  # without a manifest there is nothing to compare
    digests = manifest_digest(clips), row_digests(clips)
    checked = []
    for run in runs:
        try:
            if run.kind == "finetune":
                check_same_dataset(layout, run.folder, run.options, classes, *digests)
            checked.append(run)
        except InputError as error:
            if run.name == named:
                raise
            checked.append(replace(run, metrics=None, outdated=str(error)))
    return checked


def newest(runs: list[Run], kind: str) -> Run | None:
    """The run of a kind that changed last; runs that were tested come first."""
    of_kind = [run for run in runs if run.kind == kind]
    order = [(run.test_top1 is not None, run.modified, run.name) for run in of_kind]
    return of_kind[order.index(max(order))] if of_kind else None


def from_random_weights(finetuned: Run, runs: list[Run]) -> Run | None:
    """The tested run that differs from a finetuned one in its first weights alone: they are random.

    Returns:
        The newest of several; None where there is none, or the run itself began at random.
    """
    if finetuned.option("from") == "none":
        return None
    same = ("config", "seed", "data", "clips")
    alike = [
        run
        for run in runs
        if run.option("from") == "none" and all(run.option(n) == finetuned.option(n) for n in same)
    ]
    found = newest(alike, "finetune")
    return None if found is None or found.test_top1 is None else found


def mask_settings(run: Run | None) -> MaskSettings:
    """The tube mask of a pretraining run, or that of MOFO if it has none or there is no run."""
    if run is None:
        return MaskSettings()
    sides = {name: run.option("config", "model", name) for name in ("image_size", "patch_size")}
    mask = run.option("config", "mask") or {}
    if not all(map(is_number, sides.values())):
        return MaskSettings()
    is_tube = mask.get("kind") in ("tube", "motion_tube")
    of_box = mask.get("inside", "box") == "box"  # the pictures have boxes
    if not (is_tube and of_box and is_number(mask.get("mask_ratio"))):
        return MaskSettings(**sides)
    return MaskSettings(
        **sides,
        mask_ratio=mask["mask_ratio"],
        inside_ratio=mask.get("inside_ratio"),
        source=f"run {run.name}",
    )


def scores_of(run: Run) -> list[Scores]:
    """Read the scores of a run on `tested_split`, one item for each kind of label.

    Returns:
        An empty list if the run was not tested on it.

    Raises:
        InputError: the file is damaged.
    """
    return read_scores(run.folder.scores(run.tested_split))
