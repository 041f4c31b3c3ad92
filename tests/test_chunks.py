"""Chunks that HDF5 alone would read: as zeros, as the memory of the process, or as gigabytes."""

import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.chunks import CheckedRows, ChunkError, fletcher32

VALUES = (np.arange(1000) * 7 % 251).astype("|u1")
CHUNK = 300


def write(path, gzip, values=VALUES, rows=CHUNK):
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.create_dataset(
            "x", data=values, chunks=(rows, *values.shape[1:]), fletcher32=True,
            compression="gzip" if gzip else None,
        )  # fmt: skip
    return path


@given(st.binary(min_size=1, max_size=3000))
def test_the_checksum_is_that_of_hdf5(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("checksum") / "a.h5"
    values = np.frombuffer(data, "|u1")
    with h5py.File(write(path, False, values, len(values))) as file:
        _, stored = file["x"].id.read_direct_chunk((0,))
    assert stored == data + fletcher32(data).to_bytes(4, "little")


def test_the_checksum_of_extremes_is_that_of_hdf5(tmp_path):
    for fill in (0, 255):
        for length in (1, 2, 131_070, 131_072, 1 << 18):
            values = np.full(length, fill, "|u1")
            with h5py.File(write(tmp_path / "a.h5", False, values, length)) as file:
                _, stored = file["x"].id.read_direct_chunk((0,))
            assert stored[-4:] == fletcher32(values.tobytes()).to_bytes(4, "little")


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("shape", [(1000,), (200, 5)])
def test_rows_are_what_was_written(tmp_path, gzip, shape):
    values = VALUES.reshape(shape).astype("<i4")
    with h5py.File(write(tmp_path / "a.h5", gzip, values, 30)) as file:
        rows = CheckedRows(file["x"])
        for first, last in ((0, 0), (0, 1), (29, 31), (30, 60), (7, 200), (0, len(values))):
            found = rows.read(first, last)
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found, values[first:last])
        assert list(rows.problems()) == []


def put_chunk(path, data, mask=0, checked=True):
    """Replace chunk 1 by stored bytes; HDF5 writes them as they are."""
    if checked:
        data += fletcher32(data[: 1 << 18]).to_bytes(4, "little")
    with h5py.File(path, "r+") as file:
        file["x"].id.write_direct_chunk((CHUNK,), data, mask)


BOMB = zlib.compress(bytes(1 << 28), 9)
HARM = {
    "short": (False, bytes(100), 0, True, "has 104 bytes; 304 to 304 are possible"),
    "long": (False, bytes(4000), 0, True, "has 4004 bytes"),
    "without filters": (False, bytes(300), 1, False, "chunk 1 was stored without its filters"),
    "other checksum": (True, zlib.compress(bytes(300)) + b"abcd", 0, False, "checksum of chunk 1"),
    "too few": (True, zlib.compress(bytes(299)), 0, True, "chunk 1 decompresses to fewer than 300"),
    "too many": (True, zlib.compress(bytes(301)), 0, True, "chunk 1 decompresses to more than 300"),
    "no gzip": (True, b"not gzip", 0, True, "chunk 1 cannot be decompressed"),
    "bomb": (True, BOMB, 0, True, "bytes; 5 to 368 are possible"),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_harmed_chunks_are_never_data(tmp_path, harm):
    gzip, data, mask, checked, message = harm
    path = write(tmp_path / "a.h5", gzip)
    put_chunk(path, data, mask, checked)
    with h5py.File(path) as file:
        rows = CheckedRows(file["x"])
        np.testing.assert_array_equal(rows.read(0, CHUNK), VALUES[:CHUNK])
        with pytest.raises((ChunkError, OSError), match=message):
            rows.read(CHUNK - 1, CHUNK + 1)
        problems = list(rows.problems())
    if "decompress" not in message:  # the checksum is right: damage shows in decompression
        assert len(problems) == 1 and message in problems[0]


def test_a_chunk_that_is_not_there_is_no_zeros(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", (900,), "|u1", chunks=(CHUNK,), fletcher32=True)
        dataset[:CHUNK] = 1
        rows = CheckedRows(dataset)
        with pytest.raises(ChunkError, match="chunk 1 is missing"):
            rows.read(0, 900)
        assert len(list(rows.problems())) == 2
