"""Tables of MME (Sun et al. 2023).

Figures are those of the README of the authors' code; the values of finetuning are those of its
scripts (scripts/finetune/*/*.sh), where the two repeats do not count as clips for the learning
rate.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.paper_tables.mgm import NO_FIGURES
from benchmarks.paper_tables.mofo import ZOO
from benchmarks.paper_tables.rows import Cell, PaperTable, Published, Row
from benchmarks.paper_tables.steps import Evaluation, Finetuning, Pretraining, Probing, Settings

README = "github.com/XinyuSun/MME, README.md, Main Results"

# Epochs, learning rate without counting repeats, and test views of the scripts.
SCRIPTS = {
    "ssv2": (30, 5e-4, (2, 3)),
    "k400": (75, 1e-3, (7, 3)),
    "ucf101": (100, 1e-3, (10, 3)),
    "hmdb51": (100, 1e-3, (10, 3)),
}


def published(percent: float, source: str = README) -> Published:
    return Published(percent, source)


def pretrained(
    dataset: str, epochs: int, settings: Settings | None = None, method: str = "mme"
) -> Pretraining:
    return Pretraining(dataset, method, settings or {}, {"epochs": epochs}, f"{epochs}")


def accuracy_of(dataset: str, start: Pretraining) -> Evaluation:
    """A finetuning as MME's scripts have it (table 9), tested with their views."""
    epochs, rate, views = SCRIPTS[dataset]
    full = {
        "epochs": epochs,
        "batch_size": 128,
        "repeats": 2,
        "optim.base_learning_rate": rate / 2,
        "crop.area": [0.25, 1.0],
        "augment.rand_magnitude": 9,
    }
    return Evaluation(Finetuning(dataset, start, full=full, label="table9"), views)


SSV2 = PaperTable(
    "finetuned on Something-Something V2",
    (
        Row(
            "VideoMAE, pretrained on SSv2 for 800 epochs",
            {"SSv2": Cell(accuracy_of("ssv2", pretrained("ssv2", 800, None, "videomae")),
                          published(69.6, ZOO))},
        ),
        Row(
            "MME, pretrained on SSv2 for 400 epochs",
            {"SSv2": Cell(accuracy_of("ssv2", pretrained("ssv2", 400)), published(69.2))},
        ),
        *(
            Row(
                f"MME, pretrained on K400 for {epochs:,} epochs",
                {"SSv2": Cell(accuracy_of("ssv2", pretrained("k400", epochs)), published(percent))},
            )
            for epochs, percent in ((400, 69.5), (800, 70.5), (1600, 71.5))
        ),
    ),
)  # fmt: skip

K400 = PaperTable(
    "finetuned on Kinetics-400, 7 x 3 views",
    (
        Row(
            "VideoMAE, 1,600 epochs",
            {"K400": Cell(accuracy_of("k400", pretrained("k400", 1600, None, "videomae")),
                          published(81.5, ZOO))},
        ),
        Row(
            "MME, 1,600 epochs",
            {"K400": Cell(accuracy_of("k400", pretrained("k400", 1600)), published(81.8))},
        ),
    ),
    ("VideoMAE's figure is of 5 x 3 views.",),
)  # fmt: skip

SMALL = PaperTable(
    "pretrained on Kinetics-400, finetuned on UCF101 and HMDB51",
    (
        Row(
            "VideoMAE, 1,600 epochs",
            {
                "UCF101": Cell(accuracy_of("ucf101", pretrained("k400", 1600, None, "videomae"))),
                "HMDB51": Cell(accuracy_of("hmdb51", pretrained("k400", 1600, None, "videomae"))),
            },
        ),
        Row(
            "MME, 1,600 epochs",
            {
                "UCF101": Cell(accuracy_of("ucf101", pretrained("k400", 1600)), published(96.5)),
                "HMDB51": Cell(accuracy_of("hmdb51", pretrained("k400", 1600)), published(78.0)),
            },
        ),
    ),
)


def _probed(name: str, method: str, epochs: int) -> Row:
    return Row(name, {"SSv2": Cell(Probing("ssv2", pretrained("ssv2", epochs, None, method)))})


PROBES = PaperTable(
    "a linear probe on Something-Something V2",
    (
        Row("random weights", {"SSv2": Cell(Probing("ssv2", None))}),
        _probed("VideoMAE, 400 epochs", "videomae", 400),
        _probed("MME, 400 epochs", "mme", 400),
    ),
    (
        NO_FIGURES,
        "MME's script trains the probe with AdamW for 30 epochs (scripts/probing); here it is a "
        "logistic regression on the features of one view.",
    ),
)


def _ablated(name: str, settings: Settings | None = None, method: str = "mme") -> Row:
    start = pretrained("ssv2", 400, settings, method)
    return Row(name, {"SSv2": Cell(accuracy_of("ssv2", start))})


TARGETS = PaperTable(
    "what is predicted",
    (
        _ablated("pixels (VideoMAE)", None, "videomae"),
        *(
            _ablated(f"{kind.upper() if kind != 'flow' else kind}, not followed",
                     {"trajectories.kind": kind})
            for kind in ("hog", "flow", "hof", "mbh")
        ),
        _ablated("tracks, positions alone", {"trajectories.shape": False}),
        _ablated("tracks, shapes alone", {"trajectories.positions": False}),
        _ablated("tracks, positions and shapes"),
    ),
    (NO_FIGURES,),
)  # fmt: skip

# The toy recipe shows every frame; here every second one, so that there are frames between them.
SPARSE = {"model.num_frames": 8, "frames.stride": 2}
NOT_INTERPOLATED = accuracy_of(
    "ssv2",
    replace(pretrained("ssv2", 400, {"trajectories.interpolate": False}), toy=SPARSE),
)
NOT_INTERPOLATED = replace(
    NOT_INTERPOLATED, finetuning=replace(NOT_INTERPOLATED.finetuning, toy=SPARSE)
)

TRACKS = PaperTable(
    "length and density of tracks, and interpolation between given frames",
    (
        *(_ablated(f"length {length}", {"trajectories.length": length}) for length in (1, 3)),
        _ablated("length 6"),
        *(
            _ablated(f"{points} points a patch", {"trajectories.points": points})
            for points in (1, 9)
        ),
        Row("length 6, not interpolated", {"SSv2": Cell(NOT_INTERPOLATED)}),
    ),
    (NO_FIGURES, "The length of the public K400 script is 4 (scripts/pretrain/k400-1600epo.sh)."),
)

CHOICES = PaperTable(
    "decoders and masks",
    (
        _ablated("one decoder, tubes, 70 %"),
        _ablated("two decoders", {"trajectories.decoders": 2}),
        *(
            _ablated(f"tubes, {ratio:.0%}".replace("%", " %"), {"mask.mask_ratio": ratio})
            for ratio in (0.4, 0.9)
        ),
        _ablated("cubes, 40 %", {"mask.kind": "cube", "mask.mask_ratio": 0.4}),
    ),
    (NO_FIGURES,),
)

TABLES = {
    "mme-1": SSV2,
    "mme-2": K400,
    "mme-3": SMALL,
    "mme-4": PROBES,
    "mme-5": TARGETS,
    "mme-6": TRACKS,
    "mme-7": CHOICES,
}
