"""Compares the speed of `verify` with `sha256sum` on the same files in the page cache.

    python -m benchmarks.verify
    python -m benchmarks.verify --shards 8 --megabytes 64

The command writes a dataset of random JPEG bytes and maps, which both read in turn. The best of
--rounds rounds counts, because a busy machine changes it least. CPU seconds change even less, and
are reported beside wall-clock seconds. verify runs without worker processes, whose start takes a
second or two for any dataset.
"""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from preprocess.checks.dataset import find_dataset
from preprocess.checks.shard import check_shards
from shared.layout import DatasetLayout
from shared.manifest import Clip, manifest_digest, write_manifest
from shared.run_record import versions
from shared.shard_index import DatasetIndex, ShardEntry, shard_name, write_index
from shared.shard_writer import write_shard

CLIPS, FRAMES = 64, 32  # clips per shard, frames per clip
MAP = (85, 64)  # width, height


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--shards", type=click.IntRange(1), default=4, metavar="COUNT",
              help="Number of shards of each kind.")  # fmt: skip
@click.option(
    "--megabytes", type=click.IntRange(1), default=64, metavar="MB", help="Size of a frames shard."
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    metavar="COUNT",
    help="Number of rounds; the best one counts.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON file to write.")
def main(shards: int, megabytes: int, rounds: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        layout = write_dataset(DatasetLayout(Path(folder), "random"), shards, megabytes)
        files = sorted(map(str, layout.root.glob("*/*.h5")))
        num_bytes = sum(Path(path).stat().st_size for path in files)
        clock: dict[str, list[float]] = {"sha256sum": [], "verify": []}
        processor: dict[str, list[float]] = {"sha256sum": [], "verify": []}
        for _ in range(rounds):
            for name in clock:
                before = time.perf_counter(), cpu_seconds()
                if name == "verify":
                    verify(layout)
                else:
                    subprocess.run(["sha256sum", *files], stdout=subprocess.DEVNULL, check=True)
                clock[name].append(time.perf_counter() - before[0])
                processor[name].append(cpu_seconds() - before[1])
    rates, cpu_rates = (
        {name: round(num_bytes / min(those) / 1e6, 1) for name, those in seconds.items()}
        for seconds in (clock, processor)
    )
    result = {
        "megabytes": num_bytes / 1e6,
        "megabytes_per_second": rates,
        "share_of_sha256sum": round(rates["verify"] / rates["sha256sum"], 2),
        "megabytes_per_processor_second": cpu_rates,
        "share_of_sha256sum_by_processor": round(cpu_rates["verify"] / cpu_rates["sha256sum"], 2),
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")


def cpu_seconds() -> float:
    """CPU seconds of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def verify(layout: DatasetLayout) -> None:
    found = find_dataset(layout)
    problems = [said for path, said in found.problems]
    for shards in found.shards:
        problems += [said for texts in check_shards(shards).values() for said in texts]
    assert not problems, problems


def write_dataset(layout: DatasetLayout, shards: int, megabytes: int) -> DatasetLayout:
    rng = np.random.default_rng(0)
    clips = [Clip(f"clip-{n:06d}", f"{n}.mp4") for n in range(shards * CLIPS)]
    write_manifest(layout.manifest, clips)
    indexes = {
        kind: DatasetIndex(kind, layout.dataset, {}, CLIPS, manifest_digest(clips))
        for kind in ("frames", "flows")
    }
    for number in range(shards):
        ids = [clip.clip_id for clip in clips[number * CLIPS : (number + 1) * CLIPS]]
        for kind, arrays in shard_arrays(rng, ids, megabytes).items():
            name = shard_name(number)
            size, sha256 = write_shard(layout.root / kind / name, kind, arrays, {})
            indexes[kind].shards.append(ShardEntry(name, size, sha256, CLIPS))
    for kind, index in indexes.items():
        write_index(layout.root / kind, index)
    return layout


def shard_arrays(
    rng: np.random.Generator, ids: list[str], megabytes: int
) -> dict[str, dict[str, np.ndarray]]:
    num_frames, values = CLIPS * FRAMES, MAP[0] * MAP[1]
    ends = np.arange(1, CLIPS + 1, dtype="<i8") * FRAMES
    common = {
        "/clip/id": np.array([i.encode() for i in ids], "S64"),
        "/clip/frames": np.stack([ends - FRAMES, ends], axis=1),
        "/clip/size": np.tile(np.array([340, 256], "<i4"), (CLIPS, 1)),
        "/frame/pts_seconds": np.tile(np.arange(FRAMES) / 12, CLIPS),
    }
    offsets = np.linspace(0, megabytes * 1_000_000, num_frames + 1).astype("<i8")
    frames = {
        "/clip/stored_size": common["/clip/size"],
        "/jpeg/offsets": offsets,
        "/jpeg/values": rng.integers(0, 256, offsets[-1], "|u1"),
    }
    flows = {
        "/clip/map_size": np.tile(np.array(MAP, "<i4"), (CLIPS, 1)),
        "/motion/offsets": np.arange(num_frames + 1, dtype="<i8") * values,
        # Mostly small values, as in real motion maps; gzip reduces them to about a third.
        "/motion/values": rng.geometric(0.5, num_frames * values).astype("|u1"),
        "/motion/scale": np.ones(num_frames, "<f4"),
    }
    return {"frames": common | frames, "flows": common | flows}


if __name__ == "__main__":
    main()
