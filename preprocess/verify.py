"""Check every shard of a dataset; with --repair, make the bad ones again.

    python -m preprocess.verify --dataset ssv2 --out out
    python -m preprocess.verify --dataset ssv2 --out out --videos /data/ssv2/videos --repair
    python -m preprocess.verify --dataset ssv2 --out out --repair --num-gpus 0

Holds each file of frames/, flows/, flows-SOURCE/ and boxes/ against dataset.json (bytes, sha256),
its chunks against their checksums, its content against the schema, the manifest and the shards of
the same number. Exit status 0: all is well; 1: something is bad, and named. Some hundred MB/s a
core.

--repair makes bad shards again from the videos (bad boxes from flows/), as `preprocess.flows` does,
and puts whole shards in their place; good ones are not touched. The options of that run hold but
for those given here, such as --num-gpus 0 on a machine without GPU. A clip that was good and can no
longer be made stops it before anything is replaced.
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


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@dataset_options("shards")
@click.option("--repair", is_flag=True, help="Make the bad shards again.")
@click.option("--workers", type=click.IntRange(1), metavar="PROCESSES",
              help="Number of processes that check shards.  [default: one a core]")  # fmt: skip
@replacing_options("With --repair")
@user_errors
def main(dataset: str, out: Path, repair: bool, workers: int | None, **given: Any) -> None:
    layout = DatasetLayout(out, dataset)
    workers = workers or len(os.sched_getaffinity(0))
    if not repair:
        for name, value in given.items():
            if value is not None:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} is for --repair, which is not asked for")
        sys.exit(EXIT_ERROR if verify(layout, workers) is not None else 0)
    with RunLock(layout.lock):
        bad = verify(layout, workers)
        if bad is None:
            return
        make_again(layout, bad, given)
        print("after the repair:")
        sys.exit(EXIT_ERROR if verify(layout, workers) is not None else 0)


def verify(layout: DatasetLayout, workers: int) -> BadShards | None:
    """Print what is wrong with a dataset and return its bad shards; None where all is well."""
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

    # ----- What it comes to
    seconds = time.perf_counter() - began
    num_bad = sum(len(numbers) for numbers in bad.values())
    print(
        f"{layout.root}: {counted(num_shards, 'shard')} in {', '.join(found.indexes)}, "
        f"{found.num_bytes / 1e6:.1f} MB in {seconds:.1f} s"
    )
    if not bad and not found.problems:
        print("all are what was written")
        return None
    print(counted(num_bad, "bad shard") + advice(found, bad))
    return bad


def advice(found: FoundDataset, bad: BadShards) -> str:
    """What to do about it."""
    if found.problems and not bad:
        return ", but the folders do not fit together"
    return f"; `{found.layout.make('verify', '--repair')}` makes them again"


# --------------------------------------------------------------------------------------------------
# The repair


def make_again(layout: DatasetLayout, bad: BadShards, given: dict[str, Any]) -> None:
    """Make bad shards again; the caller holds the dataset's lock.

    Args:
        given: options of `flows` that replace those of its run; None for those not given.

    Raises:
        InputError: a clip that was good can no longer be made, or what decided the shards (options,
            manifest) is no longer known.
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
                    "{clip_id} was good and cannot be made again ({stage}: {reason}); nothing was "
                    "replaced, give its video with --videos (VIDEOS=)".format_map(failed)
                )

        chosen = [index for number in sorted(numbers) for index in plan.clip_indexes(number)]
        rebuild(plan, chosen, "repair", refuse_loss)

    # ----- Boxes, from frames and flows
    renew_boxes(layout, bad)


if __name__ == "__main__":
    main()
