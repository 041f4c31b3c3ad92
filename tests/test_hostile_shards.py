"""Hostile and damaged shards: refused by verify and by the trainer, in little memory."""

import json
import random
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from dataset_fixtures import ROOT
from errors import refuses
from shard_fixtures import write_moving_squares
from test_shards import HOSTILE

from preprocess.checks.dataset import find_dataset
from preprocess.checks.shard import check_shards
from shared.chunks import fletcher32
from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.shard_index import DatasetIndex, ShardEntry, read_index, write_index
from train.clips.reader import ClipReader
from train.clips.table import MotionNeeds, read_clip_table

NUM_FRAMES = 8

# Does what the trainer does with every clip, then what verify does; says what each refused.
READ = """
import json, sys
from pathlib import Path
import numpy as np
from preprocess.checks.dataset import find_dataset
from preprocess.checks.shard import check_shards
from shared.errors import InputError
from shared.layout import DatasetLayout
from train.clips.reader import ClipReader
from train.clips.table import MotionNeeds, read_clip_table

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

def train(layout):
    table = read_clip_table(layout, ("train", "val", "test"), True, MotionNeeds())
    reader = ClipReader(table, 8)
    for index in range(len(table)):
        chosen = np.arange(0, 8, 2)
        reader.frames(index, chosen, 1), reader.boxes(index, chosen), reader.motion(index, chosen)

def verify(layout):
    for shards in find_dataset(layout).shards:
        for problems in check_shards(shards).values():
            if problems:
                raise InputError("damaged-file", problems[-1])

found = {}
for name in sys.argv[1:]:
    found[name] = []
    for read in (train, verify):
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # peaks are counted from here
        try:
            read(DatasetLayout(Path(name), "squares"))
            refused = None
        except InputError as error:
            refused = str(error)
        found[name].append([refused, memory("VmHWM") - before])
print(json.dumps(found))
"""


def write_squares(folder: Path, num_clips: int = 4) -> DatasetLayout:
    return write_moving_squares(
        folder, num_clips=num_clips, num_frames=NUM_FRAMES, clips_per_shard=4
    )


def agree(layout: DatasetLayout, kind: str) -> None:
    """Make dataset.json say what is there: a stranger's files agree with one another."""
    import hashlib

    folder = layout.root / kind
    index = read_index(folder)
    entries = []
    for entry in index.shards:
        data = (folder / entry.name).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        entries.append(ShardEntry(entry.name, len(data), sha256, entry.clips))
    write_index(folder, DatasetIndex(**{**vars(index), "shards": entries}))


def put_chunk(path: Path, dataset: str, data: bytes) -> None:
    """Replace the first chunk by stored bytes with a checksum that matches."""
    with h5py.File(path, "r+") as file:
        target = file[dataset]
        target.id.write_direct_chunk(
            (0,) * target.ndim, data + fletcher32(data[: 1 << 18]).to_bytes(4, "little")
        )


def chunk_bytes(path: Path, dataset: str) -> int:
    with h5py.File(path) as file:
        return int(np.prod(file[dataset].chunks)) * file[dataset].dtype.itemsize


def gzip_bomb(layout):
    path = layout.flows / "00000.h5"
    size = chunk_bytes(path, "/motion/values")
    put_chunk(path, "/motion/values", zlib.compress(bytes(1000 * size), 9)[: size + size // 1000])


def large_gzip_bomb(layout):
    put_chunk(layout.flows / "00000.h5", "/motion/values", zlib.compress(bytes(1 << 28), 1))


def short_chunk(layout):
    put_chunk(layout.frames / "00000.h5", "/jpeg/values", bytes(10))


def with_offsets(kind, path, values):
    def change(layout):
        with h5py.File(layout.root / kind / "00000.h5", "r+") as file:
            file[path][...] = values(file[path][...])

    return change


def out_of_order(offsets):
    offsets[[2, 3]] = offsets[[3, 2]]
    return offsets


def far_away(offsets):
    offsets[1:] += 1 << 40
    return offsets


HARM = {  # what is done to a dataset, and the code with which its reader refuses it
    "gzip-bomb": (gzip_bomb, "damaged-file"),
    "large-gzip-bomb": (large_gzip_bomb, "damaged-file"),
    "short-chunk": (short_chunk, "damaged-file"),
    "jpegs-out-of-order": (with_offsets("frames", "/jpeg/offsets", out_of_order), "damaged-file"),
    "maps-out-of-order": (with_offsets("flows", "/motion/offsets", out_of_order), "damaged-file"),
    "offsets-far-away": (with_offsets("frames", "/jpeg/offsets", far_away), "damaged-file"),
    "rows-far-away": (with_offsets("boxes", "/clip/frames", far_away), "damaged-file"),
} | {
    f"boxes-{name.replace(' ', '-')}": (
        lambda layout, change=change: _changed(layout, change),
        code,
    )
    for name, (change, code) in HOSTILE.items()
}


def _changed(layout, change):
    with h5py.File(layout.boxes / "00000.h5", "r+") as file:
        change(file)


def harmed(folder: Path, name: str) -> DatasetLayout:
    layout = write_squares(folder / name)
    harm, _ = HARM[name]
    harm(layout)
    for kind in ("frames", "flows", "boxes"):
        agree(layout, kind)
    return layout


@pytest.mark.parametrize("name", HARM)
def test_hostile_shards_are_refused(tmp_path, name):
    layout = harmed(tmp_path, name)
    _, code = HARM[name]
    with refuses(code, layout.root, "00000.h5"):
        read_everything(layout)
    [shards] = find_dataset(layout).shards
    assert any(check_shards(shards).values())


@pytest.mark.slow
def test_hostile_shards_are_refused_in_little_memory(tmp_path):
    for name in HARM:
        harmed(tmp_path, name)
    write_squares(tmp_path / "good")
    done = subprocess.run(
        [sys.executable, "-c", READ, *(str(tmp_path / name) for name in ("good", *HARM))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {Path(name).name: results for name, results in json.loads(done.stdout).items()}
    assert [refused for refused, _ in found.pop("good")] == [None, None]
    growths = [growth for results in found.values() for _, growth in results]
    print(f"{len(found)} kinds refused, memory grew by at most {max(growths) / 1e6:.0f} MB")
    for name, results in found.items():
        for who, (refused, growth) in zip(("trainer", "verify"), results, strict=True):
            assert refused, (name, who)
            assert growth < 500e6, (name, who, growth)


# --------------------------------------------------------------------------------------------------
# Flipped bits


def read_everything(layout: DatasetLayout) -> list[np.ndarray]:
    """What the trainer takes from the shards, clip by clip."""
    table = read_clip_table(layout, ("train", "val", "test"), True, MotionNeeds())
    reader = ClipReader(table, 8)
    every = np.arange(NUM_FRAMES)
    found = [table.ids, table.frames, table.source_size, table.stored_size]
    for index in range(len(table)):
        found += [*reader.frames(index, every, 1).values(), reader.boxes(index, every)]
        found.append(reader.motion(index, every))
    return found


def flip_bits(folder: Path, num_flips: int, seed: int) -> int:
    """Each flip in a shard of its own; returns how many the trainer came across."""
    layout = write_squares(folder, num_clips=2)
    expected = read_everything(layout)
    [shards] = find_dataset(layout).shards
    rng = random.Random(seed)
    met = 0
    for number in range(num_flips):
        name = ("frames", "flows", "boxes")[number % 3]
        path = layout.root / name / "00000.h5"
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        said = check_shards(shards)
        assert said[name] and not any(texts for other, texts in said.items() if other != name)
        try:
            found = read_everything(layout)
        except InputError:
            met += 1
        else:  # the bit was of something that is not read
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)
        path.write_bytes(whole)
    assert not any(check_shards(shards).values())
    return met


def test_flipped_bits_are_named_and_never_read(tmp_path):
    assert flip_bits(tmp_path, 30, seed=0) > 10


@pytest.mark.slow
def test_three_thousand_flipped_bits(tmp_path):
    met = flip_bits(tmp_path, 3000, seed=1)
    print(f"verify named 3000 of 3000; the trainer refused {met}, and read the others right")
