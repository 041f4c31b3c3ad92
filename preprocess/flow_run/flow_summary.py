"""What a run of `flows` says at its end: how well the stages overlapped, how large the results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from preprocess.flow_run.plan import Plan
from shared.wording import counted

if TYPE_CHECKING:
    from preprocess.flow_run.pool import InProcessPool, RayPool


def print_times(pool: RayPool | InProcessPool, seconds: float, num_clips: int) -> None:
    times = pool.times
    efficiency = max(times.decode_seconds, times.flow_seconds) / seconds
    print(
        f"decode {times.decode_seconds:.1f} s ({counted(times.num_decoders, 'worker')}), "
        f"flow {times.flow_seconds:.1f} s ({counted(times.num_flow_workers, 'worker')}), "
        f"whole {seconds:.1f} s: overlap efficiency {efficiency:.2f}, "
        f"{num_clips / seconds:.1f} clips/s, {times.num_frames} frames decoded"
    )


def print_sizes(plan: Plan, num_clips: int) -> None:
    """Bytes of each folder; those of tracks, of which there is much, stand apart."""
    for name, index in plan.indexes.items():
        folder = plan.folders[name]
        total = sum(entry.bytes for entry in index.shards)
        tracks = sum(track_bytes(folder / entry.name) for entry in index.shards)
        print(f"{folder}: {counted(num_clips, 'clip')}, {_size(total - tracks, num_clips)}")
        if tracks:
            print(f"  and tracks, {_size(tracks, num_clips)}")


def track_bytes(shard: Path) -> int:
    """What tracks take of a shard."""
    with h5py.File(shard, "r") as file:
        tracks = file.get("track", {})
        return sum(dataset.id.get_storage_size() for dataset in tracks.values())


def _size(num_bytes: int, num_clips: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB, {num_bytes / max(1, num_clips):.0f} bytes a clip"
