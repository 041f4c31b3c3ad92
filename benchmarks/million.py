"""Measures time and memory of the manifest, shards, order, resume and verify of a million clips.

    python -m benchmarks.million

The command writes a manifest.csv of a million rows, dataset.json of frames/, flows/ and boxes/, and
10,000 frames shards whose clips have two frames of a few bytes (no videos). Then a new process
reads the manifest and computes its digest, reads each dataset.json, finds all clips in the shards
as training does, and draws the order of an epoch. Another one continues a run of `flows` of which
every second shard is finished, up to its first video, and checks every frames shard as `verify`
does. The peak memory is that of the new process. What verifying adds is measured from its hundredth
shard on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from preprocess.flow_run.config import FlowsConfig
from preprocess.flow_run.plan import make_plan
from shared.layout import DatasetLayout
from shared.manifest import Clip, manifest_digest, write_manifest
from shared.run_record import versions
from shared.shard_index import DatasetIndex, ShardEntry, shard_name, write_index
from shared.shard_writer import write_shard

PER_SHARD = 100  # clips
FRAMES = 2  # frames per clip

HEAD = """
import json, os, resource, sys, time
from pathlib import Path

import numpy

def seconds_of(what, work):
    began, used = time.perf_counter(), time.process_time()
    result = work()
    spent[what] = round(time.perf_counter() - began, 2), round(time.process_time() - used, 2)
    return result

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

spent = {}
"""

READ = (
    HEAD
    + """
from shared.layout import DatasetLayout
from shared.manifest import manifest_digest, read_manifest
from shared.shard_index import read_index
from train.clips.table import read_clip_table
from train.clips.sampler import epoch_order

layout = DatasetLayout(Path(sys.argv[1]), "million")
before = peak_bytes()
clips = seconds_of("manifest", lambda: read_manifest(layout.manifest))
seconds_of("manifest digest", lambda: manifest_digest(clips))
folders = layout.frames, layout.flows, layout.boxes
indexes = seconds_of("shard index", lambda: [read_index(folder) for folder in folders])
assert [index.num_clips for index in indexes] == [len(clips)] * 3
del clips, indexes
table = seconds_of("clips in the shards", lambda: read_clip_table(layout, ("train",), False))
order = seconds_of("order of an epoch", lambda: epoch_order(table.shard, 0, 0, 8))
assert numpy.array_equal(numpy.sort(order), numpy.arange(len(table)))
peak = peak_bytes()
# Finding the clips reads the manifest too, so that its own time is printed but not added.
counted = [spent[what] for what in ("shard index", "clips in the shards", "order of an epoch")]
print(json.dumps({
    "clips": len(table), "seconds_clock_and_processor": spent,
    "seconds": round(sum(clock for clock, _ in counted), 2),
    "processor_seconds": round(sum(used for _, used in counted), 2),
    "load_average": os.getloadavg()[0],
    "peak_megabytes": round(peak / 1e6), "of_which_imports": round(before / 1e6),
}))
"""
)

RESUME = (
    HEAD
    + """
from dataclasses import replace
from shared.layout import DatasetLayout
from shared.manifest import read_manifest
from preprocess.checks.dataset import find_dataset
from preprocess.checks.shard import check_shards
from preprocess.flow_run.config import FlowsConfig
from preprocess.flow_run.decode_groups import decode_groups
from preprocess.flow_run.plan import make_plan

layout = DatasetLayout(Path(sys.argv[1]), "million")
before = peak_bytes()
clips = read_manifest(layout.manifest)
config = FlowsConfig("million", layout.out, clips_per_shard=int(sys.argv[2]))
plan = seconds_of("plan", lambda: make_plan(layout, clips, config))
journal = seconds_of("journal", plan.journal)
damaged = seconds_of("checking finished shards",
                     lambda: journal.keep_intact({"frames": layout.frames}))
assert not damaged
missing = [clip for shard in plan.shards if shard not in journal.finished
           for clip in plan.clip_indexes(shard)]
groups = seconds_of("decode groups", lambda: decode_groups(plan, missing))
assert len(groups) == len(missing)
resumed = peak_bytes()
num_finished = len(journal.finished)
del clips, plan, journal, groups, missing

found = seconds_of("finding shards to verify", lambda: find_dataset(layout))
frames = [replace(s, files={"frames": s.files["frames"]}) for s in found.shards]
for shard in frames[:100]:
    assert not check_shards(shard)["frames"]
checked = peak_bytes()
bad = seconds_of("verifying frames shards",
                 lambda: sum(bool(check_shards(shard)["frames"]) for shard in frames))
assert not bad
print(json.dumps({
    "shards": len(frames), "finished_before": num_finished,
    "seconds_clock_and_processor": spent, "load_average": os.getloadavg()[0],
    "peak_megabytes_of_resume": round(resumed / 1e6), "of_which_imports": round(before / 1e6),
    "megabytes_added_by_verifying": round((peak_bytes() - checked) / 1e6, 1),
}))
"""
)


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option(
    "--clips", type=click.IntRange(1), default=1_000_000, metavar="COUNT", help="Number of clips."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON file to write.")
def main(clips: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        render(DatasetLayout(Path(folder), "million"), clips)
        result = measured(READ, folder) | {"resume_and_verify": measured(RESUME, folder, PER_SHARD)}
    result |= {"versions": versions()}
    print(json.dumps(result, indent=1))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")


def measured(script: str, *arguments: object) -> dict[str, Any]:
    """What a new process measured."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout)


def render(layout: DatasetLayout, num_clips: int) -> None:
    clips = [
        Clip(f"{n:07d}", f"{n % 1000:03d}/{n:07d}.webm", split="train", label=n % 174)
        for n in range(num_clips)
    ]
    write_manifest(layout.manifest, clips)
    digest = manifest_digest(clips)
    entries: dict[str, list[ShardEntry]] = {"frames": [], "flows": [], "boxes": []}
    for first in tqdm(range(0, num_clips, PER_SHARD), "rendering", unit="shard"):
        name, ids = shard_name(first // PER_SHARD), clips[first : first + PER_SHARD]
        num_bytes, sha256 = write_shard(layout.frames / name, "frames", heads(ids), {})
        for those in entries.values():
            those.append(ShardEntry(name, num_bytes, sha256, len(ids)))
    for kind, those in entries.items():
        index = DatasetIndex(kind, layout.dataset, {}, PER_SHARD, digest, those)
        write_index(layout.root / kind, index)
    # The journal of a run that was stopped when every second shard was finished.
    plan = make_plan(layout, clips, FlowsConfig("million", layout.out, clips_per_shard=PER_SHARD))
    journal = plan.journal()
    for number in range(0, plan.num_shards, 2):
        of_kinds = {kind: asdict(entries[kind][number]) for kind in plan.folders}
        journal.finished[number] = {"shard": number, "failures": [], **of_kinds}
    journal.start()


def heads(clips: list[Clip]) -> dict[str, np.ndarray]:
    """A frames shard with pictures of a few bytes; only their offsets are read here."""
    num_frames = FRAMES * len(clips)
    ends = np.arange(1, len(clips) + 1, dtype="<i8") * FRAMES
    sizes = np.tile(np.array([427, 240], "<i4"), (len(clips), 1))
    return {
        "/clip/id": np.array([clip.clip_id.encode() for clip in clips], "S64"),
        "/clip/frames": np.stack([ends - FRAMES, ends], axis=1),
        "/clip/size": sizes,
        "/clip/stored_size": sizes,
        "/frame/pts_seconds": np.arange(num_frames) / 12,
        "/jpeg/offsets": np.arange(num_frames + 1, dtype="<i8") * 16,
        "/jpeg/values": np.zeros(16 * num_frames, "|u1"),
    }


if __name__ == "__main__":
    main()
