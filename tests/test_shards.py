"""Shards: bytes depend on content alone, damage is noticed, foreign constructions are refused."""

import hashlib
import json
import random
import time

import h5py
import numpy as np
import pytest
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InputError
from shared.schema import SCHEMAS
from shared.shard_index import (
    INDEX_NAME,
    DatasetIndex,
    ShardEntry,
    read_index,
    shard_name,
    write_index,
)
from shared.shard_writer import write_shard
from shared.shards import ShardReader


def boxes_arrays(frames_per_clip=(3, 0, 2)):
    """Arrays of a boxes shard; the values carry their place."""
    num_clips, num_frames = len(frames_per_clip), sum(frames_per_clip)
    last = np.cumsum(frames_per_clip, dtype="<i8")
    return {
        "/clip/id": np.array([f"clip{i}" for i in range(num_clips)], dtype="S64"),
        "/clip/frames": np.stack([last - np.array(frames_per_clip, "<i8"), last], axis=1),
        "/clip/size": np.full((num_clips, 2), 64, dtype="<i4"),
        "/frame/pts_seconds": np.arange(num_frames) / 12.0,
        "/clip/box": np.arange(num_clips * 4, dtype="<f4").reshape(-1, 4),
        "/box/xyxy": np.arange(num_frames * 4, dtype="<f4").reshape(-1, 4),
        "/box/score": np.linspace(0, 1, num_frames, dtype="<f4"),
        "/contour/offsets": np.zeros(num_frames + 1, dtype="<i8"),
        "/contour/vertices": np.zeros((0, 3), dtype="<i2"),
        "/tube/offsets": np.arange(num_clips + 1, dtype="<i8") * 2,
        "/tube/index": np.arange(num_clips * 2, dtype="<i2"),
        "/clip/moving_size": np.tile(np.array([4, 3], dtype="<i4"), (num_clips, 1)),
        "/moving/offsets": np.arange(num_frames + 1, dtype="<i8") * 2,
        "/moving/bits": np.arange(num_frames * 2, dtype="|u1"),
        "/moving/tube_offsets": np.arange(num_clips + 1, dtype="<i8"),
        "/moving/tube_index": np.arange(num_clips, dtype="<i2"),
    }


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "00000.h5"
    write_shard(path, "boxes", boxes_arrays(), {"preset": "default", "sigma": 3.0})
    return path


@given(st.lists(st.integers(0, 5), max_size=4))
def test_what_is_written_reads_back_equal(tmp_path_factory, frames_per_clip):
    path = tmp_path_factory.mktemp("shard") / "00000.h5"
    arrays = boxes_arrays(tuple(frames_per_clip))
    write_shard(path, "boxes", arrays, {})
    with ShardReader(path, "boxes") as reader:
        assert (reader.num_clips, reader.num_frames) == (len(frames_per_clip), sum(frames_per_clip))
        for name, array in arrays.items():
            np.testing.assert_array_equal(reader[name], array)
            assert reader[name].dtype == array.dtype


def test_bytes_depend_on_content_alone(tmp_path):
    def written(attributes):
        path = tmp_path / "00000.h5"
        num_bytes, sha256 = write_shard(path, "boxes", boxes_arrays(), attributes)
        data = path.read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (num_bytes, sha256)
        return data

    first = written({"a": 1, "b": "x"})
    time.sleep(1.1)  # a stored time of day would show
    assert written({"b": "x", "a": 1}) == first
    assert written({"a": 2, "b": "x"}) != first


def test_plain_h5py_finds_units_and_options(shard):
    with h5py.File(shard) as file:
        assert file.attrs["format_version"] == 1 and file.attrs["preset"] == b"default"
        for field in SCHEMAS["boxes"]:
            dataset = file[field.path]
            assert dataset.fletcher32 and dataset.chunks
            assert {"description", "units", "dims"} <= set(dataset.attrs)


def test_ragged_items(shard):
    with ShardReader(shard, "boxes") as reader:
        items = reader.ragged("/tube/offsets", "/tube/index", 1, 3)
        assert [item.tolist() for item in items] == [[2, 3], [4, 5]]
        assert reader.attributes == {"preset": "default", "sigma": 3.0}


def test_flipped_bits_never_read_back_as_data(shard, tmp_path):
    """Either the reader refuses, or every value is what was written."""
    image, arrays = shard.read_bytes(), boxes_arrays()
    rng = random.Random(0)
    noticed = 0
    for _ in range(300):
        damaged = bytearray(image)
        damaged[rng.randrange(len(image))] ^= 1 << rng.randrange(8)
        path = tmp_path / "damaged.h5"
        path.write_bytes(damaged)
        try:
            with ShardReader(path, "boxes") as reader:
                found = {name: reader[name] for name in arrays}
        except InputError:
            noticed += 1
            continue
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
    assert noticed > 0


def rebuilt(path, change):
    """The shard opened for writing and changed by `change(file)`."""
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(name, **kwargs):
    def change(file):
        del file[name]
        file.create_dataset(name, **kwargs)

    return change


def external_link(file):
    del file["/box/score"]
    file["/box/score"] = h5py.ExternalLink("/etc/passwd", "/x")


def soft_loop(file):
    del file["/box/score"]
    file["/box/score"] = h5py.SoftLink("/box/score")


def virtual(file):
    del file["/box/score"]
    layout = h5py.VirtualLayout(shape=(5,), dtype="<f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(5,))
    file.create_virtual_dataset("/box/score", layout)


HOSTILE = {  # what is done to a file, and the code with which it is refused
    "external link": (external_link, "unsafe-file"),
    "soft link loop": (soft_loop, "unsafe-file"),
    "virtual": (virtual, "unsafe-file"),
    "external storage": (
        replace("/box/score", shape=(5,), dtype="<f4", external=[("/etc/passwd", 0, 20)]),
        "unsafe-file",
    ),
    "100 GB": (
        replace(
            "/box/score", shape=(25_000_000_000,), dtype="<f4", chunks=(1024,), fletcher32=True
        ),
        "damaged-file",
    ),
    "unchecked": (
        replace("/box/score", data=np.zeros(5, "<f4"), chunks=(5,)),
        "wrong-format",
    ),
    "other type": (
        replace("/box/score", data=np.zeros(5, "<f8"), chunks=(5,), fletcher32=True),
        "wrong-format",
    ),
    "other shape": (
        replace("/box/score", data=np.zeros(4, "<f4"), chunks=(4,), fletcher32=True),
        "damaged-file",
    ),
    "missing": (lambda file: file.__delitem__("/box/score"), "damaged-file"),
    "a group": (
        lambda file: (file.__delitem__("/box/score"), file.create_group("/box/score")),
        "wrong-format",
    ),
    "newer": (lambda file: file.attrs.__setitem__("format_version", 3), "other-version"),
    "other kind": (lambda file: file.attrs.__setitem__("kind", np.bytes_("flows")), "other-kind"),
    "pickled": (
        lambda file: file.attrs.__setitem__("config", np.void(b"\x80\x04N.")),
        "wrong-format",
    ),
    "variable text": (lambda file: file.attrs.__setitem__("config", "{}"), "wrong-format"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_constructions_are_refused(shard, name):
    change, code = HOSTILE[name]
    with refuses(code, shard):
        ShardReader(rebuilt(shard, change), "boxes")


def test_offsets_out_of_order_are_refused(tmp_path):
    arrays = boxes_arrays()
    arrays["/tube/offsets"][1:3] = [4, 2]
    write_shard(tmp_path / "00000.h5", "boxes", arrays, {})
    with (
        ShardReader(tmp_path / "00000.h5", "boxes") as reader,
        refuses("damaged-file", "00000.h5/tube/offsets"),
    ):
        reader.ragged("/tube/offsets", "/tube/index", 0, 3)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "damaged-file"), (b"not HDF5 at all", "damaged-file"), (None, "missing-file")],
)
def test_other_files_are_refused(tmp_path, data, code):
    path = tmp_path / "00000.h5"
    if data is not None:
        path.write_bytes(data)
    with refuses(code, path):
        ShardReader(path, "boxes")


INDEX = DatasetIndex(
    kind="boxes",
    dataset="toy",
    config={"preset": "default", "sigma": 3.0},
    clips_per_shard=4,
    manifest_digest="0" * 64,
    shards=[
        ShardEntry(shard_name(0), 100, "1" * 64, 4),
        ShardEntry(shard_name(1), 90, "2" * 64, 2),
    ],
)
ENTRY = {"name": "00000.h5", "bytes": 1, "sha256": "", "clips": 1}


def test_index_reads_back_equal(tmp_path):
    assert read_index(tmp_path) is None
    write_index(tmp_path, INDEX)
    assert read_index(tmp_path) == INDEX and read_index(tmp_path).num_clips == 6


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"format_version": 2}, "other-version", "version 2"),
        ({"config": {"sigma": 4.0}}, "damaged-file", "config"),
        (
            {"shards": [{"name": "../x.h5", "bytes": 1, "sha256": "", "clips": 1}]},
            "damaged-file",
            "../x.h5",
        ),
        (
            {"shards": [{"name": "00000.h5", "bytes": 1, "sha256": "", "clips": 9}]},
            "damaged-file",
            "00000.h5 with 9 clips",
        ),
        ({"kind": "other"}, "damaged-file", "kind 'other'"),
        ({"more": 1}, "damaged-file", "'more'"),
    ],
)
def test_edited_index_is_refused(tmp_path, change, code, named):
    write_index(tmp_path, INDEX)
    path = tmp_path / INDEX_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with refuses(code, path, named):
        read_index(tmp_path)
