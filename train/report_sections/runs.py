"""The run folders of a dataset as the report reads them: records, logs, metrics, scores."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from shared.errors import InputError
from shared.manifest import PLURAL, SPLITS
from shared.run_record import read_jsonl
from train.evaluation.score_files import Scores, read_scores
from train.objectives.registry import loss_words, recorded_target
from train.objectives.target import LossWords
from train.pictures.charts import Curve
from train.report_sections.clips import MaskSettings
from train.running.run_folder import RunFolder


@dataclass(frozen=True)
class Run:
    """One run folder. What is not there is empty.

    Attributes:
        folder: where it lies.
        record: options.json: command, options, versions, git_commit.
        events: lines of log.jsonl.
        metrics: of the evaluation on `tested_split`, or None.
        modified: seconds since 1970 of the newest of its log and metrics.
    """

    folder: RunFolder
    record: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] | None = None
    modified: float = 0.0

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def options(self) -> dict[str, Any]:
        return self.record["options"]

    @property
    def kind(self) -> str:
        """ "pretrain", "finetune", or what else wrote it."""
        return str(self.options.get("command", "unknown"))

    def option(self, *path: str) -> Any:
        """A value of the resolved options, None where there is none: option("config", "epochs")."""
        value: Any = self.options
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def curve(self, key: str, event: str = "train", name: str = "") -> Curve:
        """A number of the log over epochs. A step that was done again after a kill counts once."""
        points = {
            line["epoch"]: line[key]
            for line in self.events
            if line.get("event") == event
            and _is_number(line.get(key))
            and _is_number(line.get("epoch"))
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
        """Time of the loop over all its starts; the log's `seconds` begin anew at each."""
        total = before = 0.0
        for line in self.events:
            seconds = line.get("seconds")
            if _is_number(seconds):
                total += before if seconds < before else 0.0
                before = seconds
        return (total + before) / 60 if before else None

    @property
    def tested_split(self) -> str:
        """The split that its recipe evaluates on; of some datasets no labels of test are public."""
        split = self.option("evaluate", "split")
        return split if split in SPLITS else "test"

    @property
    def picture(self) -> str:
        """What shows what a pretraining predicts: "pixels", "tracks", or "" for nothing."""
        target = recorded_target(self.option("config") or {})
        return target.picture if target else ""

    @property
    def loss_words(self) -> LossWords:
        """Of a pretraining run: what its loss is of."""
        config = self.option("config")
        return loss_words(config if isinstance(config, dict) else {})

    @property
    def num_classes(self) -> dict[str, int]:
        """Classes that a finetuned run tells apart, by kind of label."""
        kinds = self.option("classes")
        counts = kinds.items() if isinstance(kinds, dict) else ()
        return {kind: int(n) for kind, n in counts if kind in PLURAL and _is_number(n) and n > 0}

    @property
    def chance(self) -> float | None:
        """Top-1 of guessing, percent: of verb and noun, that both are right."""
        counts = self.num_classes.values()
        return 100 / math.prod(counts) if counts else None

    @property
    def test_top1(self) -> float | None:
        """Of `tested_split`, percent; None where it was not evaluated there."""
        value = (self.metrics or {}).get("top1")
        return value if _is_number(value) else None


def read_run(path: Path) -> Run:
    """Read one run folder.

    Raises:
        InputError: no run there, or its files are not what training writes.
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
        raise InputError(f"run {folder.path.name} cannot be read: {error}") from None
    files = [file for file in (folder.log, path) if file.is_file()]
    modified = max((file.stat().st_mtime for file in files), default=0.0)
    return replace(run, metrics=metrics, modified=modified)


def read_runs(runs: Path) -> tuple[list[Run], list[str]]:
    """All runs of a dataset by name, and a line for each that cannot be read."""
    found, unreadable = [], []
    for path in sorted(runs.glob("*/options.json")):
        try:
            found.append(read_run(path.parent))
        except InputError as error:
            unreadable.append(str(error))
    return found, unreadable


def newest(runs: list[Run], kind: str) -> Run | None:
    """The run of a kind whose log or metrics are newest; one tested goes before one not tested."""
    of_kind = [run for run in runs if run.kind == kind]
    order = [(run.test_top1 is not None, run.modified, run.name) for run in of_kind]
    return of_kind[order.index(max(order))] if of_kind else None


def mask_settings(run: Run | None) -> MaskSettings:
    """The tube mask of a pretraining run; MOFO's where there is no run, or it has another mask."""
    if run is None:
        return MaskSettings()
    sides = {name: run.option("config", "model", name) for name in ("image_size", "patch_size")}
    mask = run.option("config", "mask") or {}
    if not all(map(_is_number, sides.values())):
        return MaskSettings()
    if mask.get("kind") not in ("tube", "motion_tube") or not _is_number(mask.get("mask_ratio")):
        return MaskSettings(**sides)
    return MaskSettings(
        **sides,
        mask_ratio=mask["mask_ratio"],
        inside_ratio=mask.get("inside_ratio"),
        source=f"run {run.name}",
    )


def scores_of(run: Run) -> list[Scores]:
    """Its scores on `tested_split`, one a kind of label; none where it was not evaluated there.

    Raises:
        InputError: the file is not what the evaluation writes.
    """
    return read_scores(run.folder.scores(run.tested_split))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
