"""Reads the figures of finished cells from their runs: correct clips, operations and hours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.paired_bootstrap import Accuracies, Resampler
from benchmarks.real_clips import held_out_split
from benchmarks.real_video_cells import Cell
from shared.layout import DatasetLayout
from shared.run_record import read_jsonl
from train.evaluation.score_files import read_scores
from train.running.log_times import training_seconds
from train.running.run_folder import RunFolder

Row = tuple[str, int, str]
"""A line of the results: the method, the labels per class, and the measure."""


@dataclass(frozen=True)
class ScoredClips:
    """The tested clips of a cell.

    Attributes:
        clip_ids: texts [n].
        labels: int64 [n].
        correct: bool [n].
    """

    clip_ids: list[str]
    labels: np.ndarray
    correct: np.ndarray


def score_file(layout: DatasetLayout, cell: Cell) -> Path:
    """The score file of a cell; it exists if the cell is finished."""
    split = held_out_split(cell.fold)
    name = f"{split}-linear" if cell.is_probe else split
    return RunFolder(layout.runs / cell.run).scores(name)


def read_tested(layout: DatasetLayout, cell: Cell) -> ScoredClips | None:
    """The tested clips of a cell; None if it is not finished."""
    found = read_scores(score_file(layout, cell))
    if not found:
        return None
    scores = found[0]
    return ScoredClips(scores.clip_id, scores.label, scores.predicted == scores.label)


def hours_of(folder: RunFolder) -> float:
    """Hours that the training of a run took, with all parts of a run that was stopped."""
    return training_seconds(read_jsonl(folder.log)) / 3600


def threads_of(folder: RunFolder) -> int:
    """Number of threads that a run computed with: what OpenMP was told, or every core."""
    told = folder.read_record().get("openmp", {}).get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() else os.cpu_count() or 1


class Results:
    """The tested clips of all finished cells, and what follows from them.

    A row is a method, a number of labels and a measure. Its figure is over the test clips of all
    folds together; with several seeds, or draws of labels, a clip counts with the share of these
    that are right.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self._tested: dict[Row, dict[tuple[int, int, int], ScoredClips]] = {}
        self._labelled: dict[Row, dict[int, int]] = {}
        self._resamplers: dict[tuple[str, ...], Resampler] = {}

    def add(self, cell: Cell, tested: ScoredClips, labelled: int) -> None:
        """Add the tested clips of a cell that was learned from `labelled` clips."""
        row = cell.key, cell.labels, cell.measure
        self._tested.setdefault(row, {})[cell.fold, cell.seed, cell.draw] = tested
        self._labelled.setdefault(row, {})[cell.fold] = labelled

    def rows(self) -> list[Row]:
        """(method, labels, measure) of each row with a finished cell."""
        return list(self._tested)

    def cells_of(self, row: Row) -> list[tuple[int, int, int]]:
        """(fold, seed, draw of labels) of each finished cell of a row."""
        return sorted(self._tested.get(row, ()))

    def labelled_clips(self, row: Row) -> float:
        """Number of clips that a row was learned from, as the mean over its folds."""
        return float(np.mean(list(self._labelled[row].values())))

    def accuracies(self, row: Row) -> Accuracies:
        """The accuracies of a row over its finished cells."""
        ids, labels, correct = self._joined(row, self.cells_of(row))
        return self._resampler(ids, labels).accuracies(correct)

    def difference(self, row: Row, other: Row) -> Accuracies | None:
        """Accuracies of a row minus those of another one, over the cells that both have finished.

        None if there is no such cell.
        """
        cells = sorted(set(self.cells_of(row)) & set(self.cells_of(other)))
        if not cells:
            return None
        ids, labels, ours = self._joined(row, cells)
        theirs = self._joined(other, cells)[2]
        return self._resampler(ids, labels).difference(ours, theirs)

    def _joined(
        self, row: Row, cells: Sequence[tuple[int, int, int]]
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        """Ids, labels, and the share of cells that are right, of the tested clips of all folds."""
        right: dict[str, list[bool]] = {}
        label: dict[str, int] = {}
        for cell in cells:
            tested = self._tested[row][cell]
            for clip_id, each, correct in zip(
                tested.clip_ids, tested.labels, tested.correct, strict=True
            ):
                right.setdefault(clip_id, []).append(bool(correct))
                label[clip_id] = int(each)
        ids = tuple(sorted(right))
        return (
            ids,
            np.array([label[clip_id] for clip_id in ids]),
            np.array([np.mean(right[clip_id]) for clip_id in ids]),
        )

    def _resampler(self, ids: tuple[str, ...], labels: np.ndarray) -> Resampler:
        if ids not in self._resamplers:
            sources = [self._sources[clip_id] for clip_id in ids]
            self._resamplers[ids] = Resampler(sources, labels)
        return self._resamplers[ids]
