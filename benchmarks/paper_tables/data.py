"""What each dataset needs, and how many clips it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper_tables.steps import Evaluation, Pretraining, Step
from shared.layout import DatasetLayout


@dataclass(frozen=True)
class Numbers:
    """Clips of a dataset.

    Attributes:
        train: clips of split train that are learned from.
        tested: clips of the split that papers report.
    """

    train: int
    tested: int


# Official splits; of UCF101 and HMDB51 the first of three. The comments of data_manifests/*.toml
# and the pages of the datasets have the same numbers.
NUMBERS = {
    "ssv2": Numbers(168_913, 24_777),
    "k400": Numbers(246_245, 20_000),
    "mk200": Numbers(80_000, 5_000),
    "epic100": Numbers(67_217, 9_668),
    "ucf101": Numbers(9_537, 3_783),
    "ucf14": Numbers(1_324, 523),
    "hmdb51": Numbers(3_570, 1_530),
    "hmdb14": Numbers(980, 420),
    "diving48": Numbers(15_027, 1_970),
}


def data_lines(steps: Iterable[Step], out: Path) -> list[str]:
    """The command lines that make the data of some steps; VIDEOS and ANNOTATIONS are yours."""
    steps = list(steps)
    datasets = [step.dataset for step in steps]
    datasets += [step.on for step in steps if isinstance(step, Evaluation) and step.on]
    lines = []
    for dataset in dict.fromkeys(datasets):
        layout = DatasetLayout(out, dataset)
        # A method that needs more than frames and boxes decides what `make flows` stores.
        methods = {s.method for s in steps if isinstance(s, Pretraining) and s.dataset == dataset}
        method = next((name for name in ("mme", "mgm") if name in methods), None)
        variables = {"METHOD": method} if method else {}
        videos = {"VIDEOS": f"/data/{dataset}"}
        annotations = {"ANNOTATIONS": f"/data/{dataset}/annotations"}
        lines += [
            layout.make("manifest", **videos, **annotations),
            layout.make("flows", flow_arguments(steps, dataset), **videos, **variables),
            layout.make("boxes"),
        ]
    return lines


def flow_arguments(steps: Iterable[Step], dataset: str) -> str:
    """Options of `make flows` that the pretrainings of a dataset need beside METHOD."""
    needs_vectors = any(
        isinstance(step, Pretraining) and step.dataset == dataset and step.method == "mgm"
        for step in steps
    )
    # The videos of Something-Something V2 are VP9, whose motion vectors cannot be read.
    return "--transcode" if needs_vectors and dataset == "ssv2" else ""
