"""Check every shard of a dataset. With --repair, make bad shards again.

    python -m preprocess.verify --dataset ssv2 --out out
    python -m preprocess.verify --dataset ssv2 --out out --videos /data/ssv2/videos --repair
    python -m preprocess.verify --dataset ssv2 --out out --repair --num-gpus 0

The command compares each file of frames/, flows/, flows-SOURCE/ and boxes/ with dataset.json
(bytes, sha256), its chunks with their checksums, and its content with the schema, the manifest and
the shards of the same number. It prints every problem. The exit status is 0 if there is none, and 1
otherwise. Each core checks some hundred MB/s.

--repair makes bad shards again from the videos (bad boxes from flows/), as `preprocess.flows` does,
and replaces whole shards; good shards are not touched. It uses the options of the run that made the
dataset. Options that are given here, such as --num-gpus 0 on a machine without GPU, replace them.
If a clip that was good cannot be made again, the repair stops before it replaces anything.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from preprocess.checks.dataset import FoundDataset, find_dataset
from preprocess.checks.shard import check_shards, kills_its_reader
from preprocess.flow_run.options import replacing_options
from preprocess.running.failures import read_failures
from preprocess.running.options import dataset_options
from preprocess.running.processes import results_of
from shared.errors import EXIT_ERROR, InputError, user_errors
from shared.layout import DatasetLayout
from shared.progress import bar_options
from shared.run_record import RunLock
from shared.wording import counted

BadShards = dict[str, set[int]]  # numbers by name of the folder


@click.command(
    help=f"{__doc__.splitlines()[0]}\n\nThe exit status is 0 if there is no problem, and 1 "
    "otherwise. With --repair, an option that has no default here and is not given has the "
    "value of the run that made the dataset.",
    context_settings={"show_default": True, "max_content_width": 100},
)
@dataset_options("shards")
@click.option("--repair", is_flag=True,
              help="Make bad shards again: frames and flows from the videos, and boxes from "
              "flows/.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), metavar="PROCESSES",
              help="Number of processes that check shards.  [default: one for each core]"
              )  # fmt: skip
@replacing_options("With --repair")
@user_errors
def main(dataset: str, out: Path, repair: bool, workers: int | None, **given: Any) -> None:
    layout = DatasetLayout(out, dataset)
    workers = workers or len(os.sched_getaffinity(0))
    if not repair:
        for name, value in given.items():
            if value is not None:
                flag = name.replace("_", "-")
                raise InputError(
                    "option-needs-another", f"--{flag} has an effect only with --repair"
                )
        sys.exit(EXIT_ERROR if verify(layout, workers) is not None else 0)
    with RunLock(layout.lock):
        bad = verify(layout, workers)
        if bad is None:
            return
        make_again(layout, bad, given)
        print("After the repair:")
        sys.exit(EXIT_ERROR if verify(layout, workers) is not None else 0)


def verify(layout: DatasetLayout, workers: int) -> BadShards | None:
    """Print the problems of a dataset and return its bad shards; None if it has no problem."""
    began = time.perf_counter()
    found = find_dataset(layout)
    for path, problem in found.problems:
        print(f"bad: {path}: {problem}")

    # ----- Shard by shard: one number in all folders at a time, several numbers side by side
    bad: BadShards = {}
    num_shards = sum(len(shards.files) for shards in found.shards)
    with tqdm(
        total=found.num_bytes, desc="verify", unit="B", unit_scale=True, **bar_options()
    ) as progress:
        for shards, result in results_of(check_shards, found.shards, workers):
            problems = result if result is not None else kills_its_reader(shards)
            for name, of_shard in problems.items():
                if of_shard:
                    bad.setdefault(name, set()).add(shards.number)
                    tqdm.write(f"bad: {shards.files[name].path}: {'; '.join(of_shard)}", sys.stdout)
            progress.update(sum(file.entry.bytes for file in shards.files.values()))

    # ----- Summary
    seconds = time.perf_counter() - began
    num_bad = sum(len(numbers) for numbers in bad.values())
    print(
        f"{layout.root}: {counted(num_shards, 'shard')} in {', '.join(found.indexes)}, "
        f"{found.num_bytes / 1e6:.1f} MB, checked in {seconds:.1f} s."
    )
    if not bad and not found.problems:
        print("No problem was found.")
        return None
    print(counted(num_bad, "bad shard") + advice(found, bad))
    return bad


def advice(found: FoundDataset, bad: BadShards) -> str:
    """What the user can do about the problems."""
    if found.problems and not bad:
        return ", but the folders do not fit together."
    return f". `{found.layout.make('verify', '--repair')}` makes them again."


# --------------------------------------------------------------------------------------------------
# Repair


def make_again(layout: DatasetLayout, bad: BadShards, given: dict[str, Any]) -> None:
    """Make bad shards again; the caller holds the lock of the dataset.

    Args:
        layout: paths of the dataset.
        bad: numbers of bad shards, by name of the folder.
        given: options of `flows` that replace options of its run; None for an option that was not
            given.

    Raises:
        InputError: a clip that was good cannot be made again, or the options or the manifest of the
            shards are no longer known.
    """
    from preprocess.flow_run.messages import Event
    from preprocess.flow_run.publishing import failed_record
    from preprocess.rebuilding.boxes import renew_boxes
    from preprocess.rebuilding.finished_plan import finished_plan
    from preprocess.rebuilding.shards import rebuild

    # ----- Frames and flows, from the videos
    of_boxes = {folder.name for folder in layout.boxes_folders()}
    numbers = set().union(*(those for name, those in bad.items() if name not in of_boxes))
    if numbers:
        plan = finished_plan(layout, given)
        failed_before = {record["clip_id"] for record in read_failures(layout.failures)}

        def refuse_loss(event: Event) -> None:
            failed = failed_record(plan, event)
            if failed is not None and failed["clip_id"] not in failed_before:
                raise InputError(
                    "other-inputs",
                    "{clip_id} was good before and cannot be made again ({stage}: {reason}). "
                    "Nothing was replaced. Give the folder of its video with --videos "
                    "(VIDEOS=)".format_map(failed),
                )

        chosen = [index for number in sorted(numbers) for index in plan.clip_indexes(number)]
        rebuild(plan, chosen, "repair", refuse_loss)

    # ----- Boxes, from frames and flows
    renew_boxes(layout, bad)


if __name__ == "__main__":
    main()
