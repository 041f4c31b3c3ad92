"""What a published table is: rows, columns, and where each of its figures was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.paper_tables.steps import Result, Scale, Step, with_steps_before


@dataclass(frozen=True)
class Published:
    """A figure of a paper.

    Attributes:
        percent: the figure.
        source: the text that has it.
    """

    percent: float
    source: str


@dataclass(frozen=True)
class Cell:
    """One figure of a row: how it is made here, and what was published.

    Attributes:
        result: the test or probe whose accuracy the figure is.
        published: the figure of the paper; None if no text was found that has it.
        metric: name of the figure in the metrics file of the result.
    """

    result: Result
    published: Published | None = None
    metric: str = "top1"

    def metric_at(self, scale: Scale) -> str:
        """The metric at a scale: the toy dataset has labels, and neither verbs nor nouns."""
        return self.metric if scale.is_full else "top1"


@dataclass(frozen=True)
class Row:
    """A line of a table: its name, and a cell for each column that it has."""

    name: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class PaperTable:
    """A published table.

    Attributes:
        title: what the table compares.
        rows: its lines.
        notes: what a reader must know beside it, one sentence each.
    """

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.rows for column in row.cells))

    @property
    def cells(self) -> Iterator[Cell]:
        for row in self.rows:
            yield from row.cells.values()

    def steps(self) -> list[Step]:
        """All steps of the table in the order in which they run, each once."""
        return list(unique(step for cell in self.cells for step in with_steps_before(cell.result)))


def unique(steps: Iterator[Step]) -> Iterator[Step]:
    """Each step once, in the order of its first place."""
    seen: list[Step] = []  # steps hold dicts and so have no hash
    for step in steps:
        if step not in seen:
            seen.append(step)
            yield step
