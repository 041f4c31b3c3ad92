"""The plan of the run that made a finished dataset, from the records of that run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from preprocess.flow.sources import option_names
from preprocess.flow_run.config import recorded_config, with_workers
from preprocess.flow_run.plan import Plan, make_plan
from preprocess.running.journal import described
from preprocess.running.same_options import refuse_other_options
from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.make_commands import make_flows
from shared.manifest import read_manifest
from shared.shard_index import read_index


def finished_plan(layout: DatasetLayout, given: Mapping[str, Any]) -> Plan:
    """The plan of the run that made a finished dataset, with some options replaced.

    Args:
        layout: paths of the dataset.
        given: options of `flows` by name that replace options of that run; None for an option that
            was not given.

    Raises:
        InputError: the dataset is not finished, its options or its manifest have changed, or there
            is no folder of videos.
    """
    config = recorded_config(layout, given)
    plan = make_plan(layout, read_manifest(layout.manifest), config)
    for name, folder in plan.folders.items():
        index = read_index(folder)
        if index is None:
            raise InputError(
                "not-finished",
                f"{folder} is not complete (no dataset.json). Run `{make_flows(layout, folder)}` "
                "to finish it",
            )
        wanted = described(plan.indexes[name])
        refuse_other_options(folder, described(index), wanted, option_names())
    if given.get("videos") is None and not config.video_root.is_dir():
        config = replace(config, videos=layout.videos)
    if not config.video_root.is_dir():
        raise InputError(
            "missing-folder",
            f"There is no folder of videos at {config.video_root}. Give it with --videos (VIDEOS=)",
        )
    return replace(plan, config=with_workers(config))
