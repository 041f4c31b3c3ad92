"""Make some shards of a finished dataset again and put them in place, the rest untouched.

New shards are made beside the old ones, in OUT/DATASET/.rebuild, so that the dataset can be used
all the while; a run that was stopped goes on with what is there. Only then they take their places:
the dataset is declared unfinished, with a journal of all shards as they will be, the files are
moved, and dataset.json is written again. Killed in between, `make flows` finds what is not yet as
the journal says, makes it again, and ends.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from preprocess import boxes, flows
from preprocess.box_run.inputs import motion_inputs, source_of
from preprocess.flow_run.decode_groups import readings_of
from preprocess.flow_run.messages import ClipFailed, Event
from preprocess.flow_run.plan import Plan, make_plan
from preprocess.flow_run.publishing import failed_record, settled_clips
from preprocess.flow_run.stored_clips import stored_events
from preprocess.flow_run.workers import resolve_workers, running_pool
from preprocess.motion_boxes.presets import MotionParameters
from preprocess.running import journal as resume
from preprocess.running.failures import read_failures, write_failures
from preprocess.running.same_options import refuse_other_options
from shared.errors import InputError
from shared.files import sync_folder
from shared.layout import DatasetLayout
from shared.make_commands import make_boxes, make_flows
from shared.manifest import read_manifest
from shared.shard_index import DatasetIndex, ShardEntry, read_index, shard_name
from shared.shards import ShardReader
from shared.wording import counted

# How a run was divided among processes says nothing about the next machine.
NOT_TAKEN_OVER = ("decoders", "flow_workers", "strict", "overwrite", "dry_run")


def repair(layout: DatasetLayout, bad: dict[str, set[int]], given: dict[str, Any]) -> None:
    """Make bad shards again, by name of the folder; the caller holds the dataset's lock.

    Raises:
        InputError: a clip that was good can no longer be made, or what decided the shards (options,
            manifest) is no longer known.
    """
    of_boxes = {folder.name for folder in layout.boxes_folders()}
    numbers = set().union(*(those for name, those in bad.items() if name not in of_boxes))
    if numbers:
        plan, options = finished_plan(layout, given)
        failed_before = {record["clip_id"] for record in read_failures(layout.failures)}

        def refuse_loss(event: Event) -> None:
            failed = failed_record(plan, event)
            if failed is not None and failed["clip_id"] not in failed_before:
                raise InputError(
                    "{clip_id} was good and cannot be made again ({stage}: {reason}); nothing was "
                    "replaced, give its video with --videos (VIDEOS=)".format_map(failed)
                )

        places = [place for number in sorted(numbers) for place in plan.places(number)]
        rebuild(plan, options, places, "repair", refuse_loss)
    renew_boxes(layout, bad)


def finished_plan(layout: DatasetLayout, given: dict[str, Any]) -> tuple[Plan, dict[str, Any]]:
    """The plan that a finished dataset was made by, and the options for it.

    Args:
        given: options of `preprocess.flows` that replace those of its run; None for those that
            were not given.

    Raises:
        InputError: the dataset is not finished, or the options and the manifest are not those that
            its dataset.json has.
    """
    options = recorded_options(layout)
    options |= {name: value for name, value in given.items() if value is not None}
    plan = make_plan(layout, read_manifest(layout.manifest), options)
    for name, folder in plan.folders.items():
        index = read_index(folder)
        if index is None:
            raise InputError(
                f"{folder} is not complete (no dataset.json); run `{make_flows(layout, folder)}` "
                "to finish it"
            )
        wanted = resume.described(plan.indexes[name])
        refuse_other_options(folder, resume.described(index), wanted)
    if given["videos"] is None and not (options["videos"] and options["videos"].is_dir()):
        options["videos"] = layout.videos
    if not options["videos"].is_dir():
        raise InputError(f"no folder of videos at {options['videos']}; give it with --videos")
    resolve_workers(options)
    return plan, options


def recorded_options(layout: DatasetLayout) -> dict[str, Any]:
    """What `preprocess.flows` was told, and its defaults for all else."""
    path = layout.flows / "options.json"
    # As the command line has them where nothing is given.
    defaults = flows.main.make_context("flows", ["--dataset", layout.dataset]).params
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["options"]
        taken = {n: v for n, v in recorded.items() if n in defaults and n not in NOT_TAKEN_OVER}
    except FileNotFoundError:
        raise InputError(f"{path} is not there; it says how the shards were made") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not what `preprocess.flows` writes: {error!r}") from None
    options = defaults | taken
    for name in ("videos", "raft_weights"):
        options[name] = Path(options[name]) if options[name] else None
    return options | {"out": layout.out, "dataset": layout.dataset}


def rebuild(
    plan: Plan,
    options: dict[str, Any],
    places: list[int],
    purpose: str,
    on_settled: Callable[[Event], None] = lambda event: None,
) -> list[dict[str, Any]]:
    """Make the clips of `places` again and whatever shards they are in; other clips of those
    shards are taken over as they are. Returns the failures of the whole dataset.
    """
    # ----- What an earlier, stopped run made
    staging = plan.layout.root / ".rebuild"
    folders = {name: staging / name for name in plan.folders}
    found = {name: read_index(folder) for name, folder in plan.folders.items()}
    indexes = {name: index for name, index in found.items() if index is not None}
    assert indexes.keys() == found.keys(), "what is rebuilt is complete"
    journal = _staged(staging, folders, purpose, indexes)
    left = [place for place in places if plan.shard_of(place) not in journal.finished]
    readings = readings_of(plan, left)
    chosen = set(places)

    # ----- The clips asked for through the workers, the others from the shards
    num_failed = 0
    with (
        running_pool(plan, options, is_needed=bool(readings)) as pool,
        tqdm(total=len(places), initial=len(places) - len(left), desc=purpose, unit="clip") as bar,
    ):
        events = pool.run(readings) if pool else ()
        for event in settled_clips(
            plan, events, journal, folders, lambda shard: _untouched(plan, shard, chosen)
        ):
            bar.update()
            num_failed += isinstance(event, ClipFailed)
            on_settled(event)
    print(f"{purpose}: {len(places) - num_failed} of {len(places)} clips made")
    return _put_in_place(plan, journal, folders, indexes)


def _staged(
    staging: Path, folders: dict[str, Path], purpose: str, indexes: dict[str, DatasetIndex]
) -> resume.Journal:
    """The journal of new shards; those of another purpose, or of clips that failed, are dropped."""
    head = {"purpose": purpose} | {name: index.digest for name, index in indexes.items()}
    try:
        journal = resume.Journal(staging, head)
    except InputError:  # begun on shards that have been replaced since
        shutil.rmtree(staging)
        journal = resume.Journal(staging, head)
    journal.keep_intact(folders)
    for number, record in list(journal.finished.items()):
        if record["failures"]:  # tried again: the videos may be others by now
            del journal.finished[number]
    if journal.finished:
        print(f"going on after {counted(len(journal.finished), 'shard')}")
    journal.start()
    return journal


def _untouched(plan: Plan, shard: int, chosen: set[int]) -> Iterable[Event]:
    """The clips of a shard that are not to be made again, as they are stored."""
    places = {plan.clips[place].clip_id: place for place in plan.places(shard)}
    if chosen.issuperset(places.values()):
        return  # nothing of the old shard is needed; it may be damaged
    with ExitStack() as stack:
        readers = {
            name: stack.enter_context(ShardReader(folder / shard_name(shard), kind_of(plan, name)))
            for name, folder in plan.folders.items()
        }
        yield from stored_events(readers, places, plan.flow)


def kind_of(plan: Plan, name: str) -> str:
    return plan.indexes[name].kind


def _put_in_place(
    plan: Plan,
    staged: resume.Journal,
    folders: dict[str, Path],
    indexes: dict[str, DatasetIndex],
) -> list[dict[str, Any]]:
    journal = plan.journal()
    places = {clip.clip_id: place for place, clip in enumerate(plan.clips)}
    failures: dict[int, list[dict[str, Any]]] = {}
    for record in read_failures(plan.layout.failures):
        if record["clip_id"] in places:
            failures.setdefault(plan.shard_of(places[record["clip_id"]]), []).append(record)
    for number in range(plan.num_shards):
        entries = {name: asdict(index.shards[number]) for name, index in indexes.items()}
        old = {"shard": number, "failures": failures.get(number, [])} | entries
        journal.finished[number] = staged.finished.get(number, old)

    journal.start()
    for folder in plan.folders.values():
        (folder / resume.INDEX_NAME).unlink()
    for record in staged.finished.values():
        for name, folder in plan.folders.items():
            entry = ShardEntry(**record[name])
            if not resume.is_intact(folder / entry.name, entry):  # good ones stay, to the inode
                os.replace(folders[name] / entry.name, folder / entry.name)
                print(f"replaced {folder / entry.name} ({counted(entry.clips, 'clip')})")
    for folder in plan.folders.values():
        sync_folder(folder)
    left = journal.failures()
    write_failures(plan.layout.failures, left)
    plan.write_indexes({name: journal.entries(name) for name in plan.folders})
    journal.remove()
    shutil.rmtree(folders["flows"].parent)
    return left


def renew_boxes(layout: DatasetLayout, bad: Mapping[str, Iterable[int]]) -> None:
    """Make those boxes shards again that are bad, or whose flows shard has been replaced.

    Args:
        bad: numbers of shards, by name of the folder.
    """
    for folder in layout.boxes_folders():
        _renew(layout, folder, bad.get(folder.name, ()))


def _renew(layout: DatasetLayout, folder: Path, bad: Iterable[int]) -> None:
    index = read_index(folder)
    name, kind = source_of({} if index is None else index.config)
    source = read_index(layout.root / name)
    if index is None or source is None:
        made = make_boxes(layout, folder)
        print(f"{folder} is not complete; run `{made}` to finish it", file=sys.stderr)
        return
    if _places(index) != _places(source):  # no shard of theirs has the clips of one here
        made = make_boxes(layout, folder, "--overwrite")
        print(
            f"{folder} was made of {counted(len(index.shards), 'shard')} of up to "
            f"{counted(index.clips_per_shard, 'clip')}, and {layout.root / name} has "
            f"{len(source.shards)} of up to {source.clips_per_shard}, or is of another manifest; "
            f"make it again, with the options that it had: `{made}`",
            file=sys.stderr,
        )
        return
    stale = set(bad) | {
        number
        for number, (entry, made_of) in enumerate(zip(index.shards, source.shards, strict=True))
        if _source_digest(folder / entry.name, kind) != made_of.sha256
    }
    if not stale and index.config[kind] == source.digest:
        return
    if kind == "frames":
        print(
            f"{folder} was made of annotations, and is not as the frames are now; make it again "
            "with `preprocess.boxes --from-annotations ... --overwrite`",
            file=sys.stderr,
        )
        return
    left_out = ("flows", "frames", "made_from")
    numbers = {option: value for option, value in index.config.items() if option not in left_out}
    job = motion_inputs(layout, layout.root / name, MotionParameters(**numbers))
    wanted = boxes.wanted_index(layout, job)
    resume.forget(folder)
    journal = resume.Journal(folder, resume.described(wanted))
    journal.finished = {
        number: {"shard": number, "boxes": asdict(entry)}
        for number, entry in enumerate(index.shards)
        if number not in stale
    }
    journal.start()
    boxes.compute(folder, job, wanted, None)


def _places(index: DatasetIndex) -> tuple[int, int, str]:
    """What decides which clips a shard of a number holds."""
    return len(index.shards), index.clips_per_shard, index.manifest_digest


def _source_digest(path: Path, kind: str) -> str | None:
    """sha256 of the shard that a boxes shard was made from; None where it cannot be read."""
    try:
        with ShardReader(path, "boxes") as reader:
            return reader.attributes.get(kind)
    except InputError:
        return None
