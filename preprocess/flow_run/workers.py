"""The workers of `preprocess.flows`: how many, and the pool that they are in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from preprocess.flow_run.plan import Plan
from shared.errors import InputError
from shared.gpus import refuse_too_few

if TYPE_CHECKING:  # a run that finds everything complete must not wait for OpenCV and torch
    from preprocess.flow_run.messages import WorkOptions
    from preprocess.flow_run.pool import InProcessPool, RayPool


def resolve_workers(options: dict[str, Any]) -> None:
    """Fill in how many workers: flow is the most work on CPU, decoding beside a GPU."""
    cores = len(os.sched_getaffinity(0))
    gpus = options["num_gpus"]
    options["decoders"] = options["decoders"] or (cores if gpus else max(1, cores // 4))
    options["flow_workers"] = options["flow_workers"] or gpus or cores
    if gpus and options["flow_workers"] % gpus and options["pool"] == "ray":
        raise InputError(
            f"--flow-workers {options['flow_workers']} with --num-gpus {gpus}: each GPU serves the "
            f"same number of workers; a multiple of {gpus} is allowed"
        )
    if options["pool"] == "in-process":
        options["decoders"] = options["flow_workers"] = 1


@contextmanager
def running_pool(
    plan: Plan, options: dict[str, Any], is_needed: bool
) -> Iterator[RayPool | InProcessPool | None]:
    """The workers that the options ask for, gone at the end; None where there is no work."""
    if not is_needed:
        yield None
        return
    from preprocess.flow_run.pool import InProcessPool, RayPool

    if options["num_gpus"] and not os.environ.get("RAY_ADDRESS"):  # a cluster has its own
        import torch

        refuse_too_few(torch.cuda, options["num_gpus"], "--num-gpus")
    work = work_options(plan, options)
    scratch = work.decode.scratch
    pool: RayPool | InProcessPool
    if options["pool"] == "in-process":
        pool = InProcessPool(work)
    else:
        workers = options["decoders"], options["flow_workers"], options["num_gpus"]
        pool = RayPool(work, *workers, options["clip_timeout"], dashboard=options["dashboard"])
    try:
        yield pool
    finally:
        pool.close()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def work_options(plan: Plan, options: dict[str, Any]) -> WorkOptions:
    from preprocess.flow_run.messages import WorkOptions
    from preprocess.video.frame_chunks import DecodeOptions

    return WorkOptions(
        video_root=options["videos"].resolve(),
        decode=DecodeOptions(
            short_side=options["frame_short_side"],
            max_pixels=options["max_pixels"],
            max_frames=options["max_frames"],
            max_seconds=options["max_seconds"],
            # Copies of videos wait here, and are gone after the run.
            scratch=plan.layout.root.resolve() / ".transcoded" if plan.flow.transcode else None,
        ),
        jpeg_quality=options["jpeg_quality"],
        flow_short_side=options["flow_short_side"],
        map_short_side=options["map_short_side"],
        device="cuda" if options["num_gpus"] else "cpu",
        flow=plan.flow,
    )
