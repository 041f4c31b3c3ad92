"""Tables of MGM (Fan et al. 2023).

The paper has no public code, and its abstract names differences only: up to +1.3 on Kinetics-400
and Something-Something V2, up to +4.9 after transfer.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.paper_tables.mofo import ZOO
from benchmarks.paper_tables.rows import Cell, PaperTable, Published, Row
from benchmarks.paper_tables.steps import Evaluation, Finetuning, Pretraining, Probing, Settings

INDEX = "wizwand.com's index of the paper's results, which does not say the epochs"
MAPS = Path("data_manifests")
NO_FIGURES = "No text was found that has the figures of this table."


def _main(method: str, epochs: int, dataset: str) -> Evaluation:
    label = "" if epochs == 800 else f"{epochs}"
    full = {"epochs": epochs} if label else {}
    pretraining = Pretraining(dataset, method, full=full, label=label)
    # Table 1 finetunes with repeated augmentation of 2. A repeat counts as a clip here.
    rate = {"k400": 5e-4, "ssv2": 2.5e-4}[dataset]
    repeated = {"repeats": 2, "optim.base_learning_rate": rate}
    return Evaluation(Finetuning(dataset, pretraining, full=repeated, label="repeated"))


MAIN = PaperTable(
    "motion-guided masks against random tubes",
    (
        Row(
            "VideoMAE, 800 epochs",
            {
                "K400": Cell(_main("videomae", 800, "k400"), Published(81.0, ZOO)),
                "SSv2": Cell(_main("videomae", 800, "ssv2"), Published(69.6, ZOO)),
            },
        ),
        Row(
            "VideoMAE, 1,600 epochs on K400, 2,400 on SSv2",
            {
                "K400": Cell(_main("videomae", 1600, "k400"), Published(81.5, ZOO)),
                "SSv2": Cell(_main("videomae", 2400, "ssv2"), Published(70.8, ZOO)),
            },
        ),
        Row(
            "MGM, 800 epochs",
            {
                "K400": Cell(_main("mgm", 800, "k400"), Published(80.8, INDEX)),
                "SSv2": Cell(_main("mgm", 800, "ssv2"), Published(72.1, INDEX)),
            },
        ),
    ),
    ("VideoMAE's 69.6 on SSv2 is without repeated augmentation.",),
)

SMALL = {"UCF101": "ucf101", "HMDB51": "hmdb51", "Diving48": "diving48"}


def _transfer(method: str) -> Row:
    start = Pretraining("k400", method)
    finetuned = {
        name: Cell(Evaluation(Finetuning(dataset, start))) for name, dataset in SMALL.items()
    }
    probed = {f"{name}, probe": Cell(Probing(dataset, start)) for name, dataset in SMALL.items()}
    return Row({"videomae": "VideoMAE", "mgm": "MGM"}[method], finetuned | probed)


TRANSFER = PaperTable(
    "transfer from Kinetics-400 to small datasets",
    (_transfer("videomae"), _transfer("mgm")),
    (NO_FIGURES,),
)


def _adapted(method: str, source: str, target: str, class_map: str) -> Cell:
    finetuning = Finetuning(source, Pretraining("k400", method))
    return Cell(Evaluation(finetuning, on=target, class_map=MAPS / class_map))


ADAPTATION = PaperTable(
    "partial domain adaptation, source classes stay in the running (sec. 4.4)",
    tuple(
        Row(
            name,
            {
                "UCF14 to HMDB7": _adapted(method, "ucf14", "hmdb51", "ucf14-hmdb7.csv"),
                "HMDB14 to UCF7": _adapted(method, "hmdb14", "ucf101", "hmdb14-ucf7.csv"),
            },
        )
        for name, method in (("VideoMAE", "videomae"), ("MGM", "mgm"))
    ),
    (NO_FIGURES, "data_manifests/README.md says where the lists of classes are from."),
)


def _ablated(name: str, method: str, settings: Settings | None = None) -> Row:
    start = Pretraining("mk200", method, settings or {})
    cells = {
        "finetuned": Cell(Evaluation(Finetuning("mk200", start))),
        "probe": Cell(Probing("mk200", start)),
    }
    return Row(name, cells)


MASKS = PaperTable(
    "masks, patterns, ratios and sources of motion, on Mini-Kinetics-200",
    (
        _ablated("random tubes, 90 %", "videomae"),
        _ablated("random, 90 %", "random"),
        _ablated("random blocks, 75 %", "block"),
        _ablated("SMM, dense", "smm"),
        _ablated("SMM, sparse", "smm", {"mask.pattern": "sparse"}),
        _ablated("MGM, dense, 50 %", "mgm", {"mask.mask_ratio": 0.5}),
        _ablated("MGM, dense, 75 %", "mgm"),
        _ablated("MGM, dense, 90 %", "mgm", {"mask.mask_ratio": 0.9}),
        _ablated("MGM, sparse, 75 %", "mgm", {"mask.pattern": "sparse"}),
        _ablated("MGM, flow instead of the codec's vectors", "mgm",
                 {"motion_source": "tvl1-length"}),
    ),
    (NO_FIGURES,),
)  # fmt: skip

TABLES = {"mgm-1": MAIN, "mgm-2": TRANSFER, "mgm-3": ADAPTATION, "mgm-4": MASKS}
