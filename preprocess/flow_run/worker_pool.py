"""The workers of a run: started where there is something to do, gone at its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from preprocess.flow_run.messages import WorkerOptions
from preprocess.flow_run.plan import Plan
from preprocess.flow_run.pool import InProcessPool, RayPool
from preprocess.video.frame_chunks import DecodeOptions
from shared.gpus import refuse_too_few


@contextmanager
def running_pool(plan: Plan, is_needed: bool) -> Iterator[RayPool | InProcessPool | None]:
    """The workers that the config asks for; None where nothing is to be computed.

    Raises:
        InputError: there are not so many GPUs, or Ray does not start.
    """
    if not is_needed:
        yield None
        return
    config = plan.config
    if config.num_gpus and not os.environ.get("RAY_ADDRESS"):  # a cluster has its own
        import torch

        refuse_too_few(torch.cuda, config.num_gpus, "--num-gpus")
    options = worker_options(plan)
    scratch = options.decode.scratch
    pool: RayPool | InProcessPool
    if config.pool == "in-process":
        pool = InProcessPool(options)
    else:
        assert config.decoders and config.flow_workers, "numbers of workers are resolved"
        pool = RayPool(
            options,
            config.decoders,
            config.flow_workers,
            config.num_gpus,
            config.clip_timeout,
            dashboard=config.dashboard,
        )
    try:
        yield pool
    finally:
        pool.close()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def worker_options(plan: Plan) -> WorkerOptions:
    """What of the config the workers must know."""
    config = plan.config
    return WorkerOptions(
        video_root=config.video_root.resolve(),
        decode=DecodeOptions(
            short_side=config.frame_short_side,
            max_pixels=config.max_pixels,
            max_frames=config.max_frames,
            max_seconds=config.max_seconds,
            # Copies of videos wait here, and are gone after the run.
            scratch=plan.layout.root.resolve() / ".transcoded" if plan.flow.transcode else None,
        ),
        jpeg_quality=config.jpeg_quality,
        flow_short_side=config.flow_short_side,
        map_short_side=config.map_short_side,
        device="cuda" if config.num_gpus else "cpu",
        flow=plan.flow,
    )
