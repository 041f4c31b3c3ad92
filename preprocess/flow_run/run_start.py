"""What a run of `flows` records before its first shard: from then on the folders are unfinished."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from preprocess.flow.options import flow_folders, united
from preprocess.flow_run.assembly import Assembly
from preprocess.flow_run.config import recorded_config
from preprocess.flow_run.messages import WrittenShard
from preprocess.flow_run.plan import Plan
from preprocess.running.failures import write_failures
from preprocess.running.journal import Journal, remove_journal
from shared.errors import InputError
from shared.files import put_in_place
from shared.run_record import JsonlLog, write_options
from shared.shard_index import ShardEntry, read_index


def require_videos(plan: Plan) -> None:
    """Check that the folder of videos is the right one, before anything is written.

    Raises:
        InputError: the folder does not exist, or it has none of the videos of the manifest.
    """
    root = plan.config.video_root
    if not root.is_dir():
        raise InputError(
            "missing-folder",
            f"There is no folder of videos at {root}. Give it with --videos (VIDEOS=)",
        )
    if not any(os.path.lexists(root / clip.video) for clip in plan.clips):
        raise InputError(
            "no-match",
            f"{root} has none of the videos of {plan.layout.manifest}; the first one is "
            f"{plan.clips[0].video}. Give the folder of the videos with --videos (VIDEOS=)",
        )


def record_options(plan: Plan) -> None:
    """Write options.json, with the further outputs that earlier runs made of the same flows/.

    `retry` and `verify --repair` make all outputs of a dataset again from this record alone. With
    --overwrite, outputs of earlier runs do not belong to the new shards.
    """
    config, layout = plan.config, plan.layout
    if not config.overwrite and plan.main_folder == layout.flows:
        with suppress(InputError):  # there was no earlier run, or its record is lost
            earlier = recorded_config(layout, {}).flow
            kept = [
                output
                for output, folder in flow_folders(earlier).items()
                if read_index(layout.root / folder) is not None
            ]
            config = replace(config, flow=united(earlier, kept, config.flow))
    write_options(plan.main_folder / "options.json", config.options())


class RunStart:
    """Start a run at once, or with --overwrite when its first shard has been written.

    Until a run has started, the folders are as an earlier run left them. A run with --overwrite
    that fails before its first shard, for want of a GPU, videos or disk space, so loses nothing.

    Args:
        plan: of the folders that the run makes.
        journal: of those folders, with the shards that an earlier run finished.

    Attributes:
        has_started: whether the folders are declared unfinished.
    """

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self.has_started = False
        self._plan = plan
        self._journal = journal
        self._log: JsonlLog | None = None
        self._early_failures: list[dict[str, Any]] = []
        self._staging = plan.layout.root / f".first-shard{plan.suffix}"
        for left in (self._staging, plan.leases):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        if not plan.config.overwrite:
            self.start()

    def start(self) -> None:
        """Write the journal, then declare the folders unfinished."""
        plan = self._plan
        self._journal.start()
        for folder in plan.folders.values():
            if folder != self._journal.folder:
                remove_journal(folder)
        plan.remove_indexes()
        if not plan.complete:  # beside complete folders, the record that `retry` reads stays
            write_failures(plan.failures, [*self._journal.failures(), *self._early_failures])
            record_options(plan)
        self._log = JsonlLog(plan.failures)
        self.has_started = True

    def add_failure(self, record: dict[str, Any]) -> None:
        """Add a clip that failed to failures.jsonl, as soon as the run has started."""
        if self._log is None:
            self._early_failures.append(record)
        else:
            self._log.write(record)

    def publish(
        self, assembly: Assembly, folders: dict[str, Path], configs: dict[str, dict[str, Any]]
    ) -> dict[str, ShardEntry]:
        """Write the shards of an assembly; the first ones are complete before the run starts."""
        if self.has_started:
            return assembly.publish(folders, configs)
        staged = {name: self._staging / name for name in folders}
        entries = assembly.publish(staged, configs)
        self.put_in_place(WrittenShard(assembly.number, self._staging, entries, {}))
        return entries

    def put_in_place(self, written: WrittenShard) -> None:
        """Move the shards of one number from a folder beside to their final names."""
        if not self.has_started:
            self.start()
        for name, folder in self._plan.folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            file = written.entries[name].name
            put_in_place(written.lease / name / file, folder / file)
        shutil.rmtree(written.lease, ignore_errors=True)

    def close_staging(self) -> None:
        """Remove the folder of the first shard."""
        shutil.rmtree(self._staging, ignore_errors=True)

    def close(self) -> None:
        """Close failures.jsonl."""
        if self._log is not None:
            self._log.close()
        self.close_staging()
