"""Puts files into an S3 bucket, and gets, lists and removes them, with retries.

s3fs speaks to the store, so any S3 service will do: credentials, region and endpoint are those of
the usual variables and files (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, ~/.aws). A request
that fails is tried again, with longer and longer waits. An object is checked when it has been put:
its size, the sha256 that is stored beside it, and the checksum of the store itself.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shared.errors import InputError

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt. After the last one, the request has failed."""
TIMEOUT_SECONDS = 30  # without a byte from the store
PART_BYTES = 1 << 25  # larger objects are put in parts, several at a time
PARTS_AT_A_TIME = 4
BLOCK_BYTES = 1 << 16  # of an object that is read in part
BLOCKS = 16  # that are kept of it

Result = TypeVar("Result")


@dataclass(frozen=True)
class StoredObject:
    """What the store says of an object.

    Attributes:
        num_bytes: its size.
        etag: changes with the content; unless `is_encrypted` it is a checksum of the content.
        sha256: of who put it, if known; a listing does not have it.
        is_encrypted: whether a key of the user encrypts it.
    """

    num_bytes: int
    etag: str
    sha256: str = ""
    is_encrypted: bool = False


def put(file: Path, address: str) -> StoredObject:
    """Put a file into the store under an address such as bucket/path/name.

    Raises:
        InputError: the store refused, could not be reached, or kept other bytes.
    """
    with open(file, "rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        etags = _etags(stream)
        num_bytes = stream.tell()

    def attempt() -> StoredObject:
        store = _store()
        store.put_file(
            str(file),
            address,
            chunksize=PART_BYTES,
            max_concurrency=PARTS_AT_A_TIME,
            Metadata={"sha256": sha256},
        )
        found = _head(store, address)
        if (found.num_bytes, found.sha256) != (num_bytes, sha256):
            raise OSError(f"{found.num_bytes} bytes arrived, of {num_bytes}")
        if found.etag not in etags and not found.is_encrypted:
            raise OSError("other bytes arrived")
        return found

    return _tried(f"put s3://{address}", attempt)


def get(address: str, file: Path) -> StoredObject:
    """Get an object into a file; the caller checks the content.

    Raises:
        FileNotFoundError: there is no such object.
        InputError: the store refused or could not be reached.
    """

    def attempt() -> StoredObject:
        store = _store()
        found = _head(store, address)
        store.get_file(address, str(file))
        if file.stat().st_size != found.num_bytes:
            raise OSError(f"{file.stat().st_size} bytes arrived, of {found.num_bytes}")
        return found

    return _tried(f"get s3://{address}", attempt)


def describe(address: str) -> StoredObject | None:
    """What the store says of one object; None if there is none."""
    try:
        return _tried(f"look up s3://{address}", lambda: _head(_store(), address))
    except FileNotFoundError:
        return None


def listing(address: str) -> dict[str, StoredObject]:
    """All objects below an address, by their path from there."""

    def attempt() -> dict[str, StoredObject]:
        found = _store().find(address, detail=True, refresh=True)
        return {
            name.removeprefix(f"{address}/"): StoredObject(entry["size"], _plain(entry["ETag"]))
            for name, entry in found.items()
            if entry["type"] == "file" and name != address
        }

    try:
        return _tried(f"list s3://{address}", attempt)
    except FileNotFoundError:
        return {}


def remove(address: str) -> None:
    """Remove an object, if it is there."""
    try:
        _tried(f"remove s3://{address}", lambda: _store().rm_file(address))
    except FileNotFoundError:
        return


class PartlyRead(io.RawIOBase):
    """An object as a file of which only those blocks are got that are read.

    Attributes:
        size: number of bytes of the object.

    Raises:
        FileNotFoundError: there is no such object.
        InputError: the store refused or could not be reached.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._position = 0
        self._block = functools.lru_cache(BLOCKS)(self._get_block)
        self.size = _tried(f"look up s3://{address}", lambda: _head(_store(), address)).num_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self.size - self._position))
        done = 0
        while done < wanted:  # h5py takes a short read for the end of the file
            number, offset = divmod(self._position, BLOCK_BYTES)
            part = self._block(number)[offset : offset + wanted - done]
            view[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return done

    def _get_block(self, number: int) -> bytes:
        first = number * BLOCK_BYTES
        last = min(first + BLOCK_BYTES, self.size)

        def attempt() -> bytes:
            block = _store().cat_file(self._address, start=first, end=last)
            if len(block) != last - first:
                raise OSError(f"{len(block)} bytes arrived, of {last - first}")
            return block

        return _tried(f"get part of s3://{self._address}", attempt)


def _store() -> Any:
    """The file system of s3fs; it is the same object for each call of a process."""
    try:
        fsspec = importlib.import_module("fsspec")
        importlib.import_module("s3fs")
    except ImportError as error:
        raise InputError(
            "missing-package",
            f"OUT is in object storage, and the package s3fs cannot be imported ({error}); "
            "install it with `.venv/bin/pip install '.[s3]'`",
        ) from None
    seconds = {"connect_timeout": TIMEOUT_SECONDS, "read_timeout": TIMEOUT_SECONDS}
    return fsspec.filesystem(
        "s3",
        use_listings_cache=False,
        # Attempts are counted here, so that the waits are those of one place.
        config_kwargs={**seconds, "retries": {"total_max_attempts": 1}},
    )


def _tried(what: str, attempt: Callable[[], Result]) -> Result:
    """The result of the first attempt that succeeds."""
    for wait in (*WAITS, None):
        try:
            return attempt()
        except (FileNotFoundError, InputError):
            raise
        except PermissionError as error:
            raise InputError("no-permission", f"cannot {what}: {error}") from None
        except Exception as error:
            # Errors of the network come as those of aiohttp, botocore, fsspec and the system.
            if not _is_of_the_network(error):
                raise
            if "Credentials" in type(error).__name__:
                raise InputError("service-refused", f"cannot {what}: {error}") from None
            if wait is None:
                raise InputError(
                    "service-refused",
                    f"cannot {what}, tried {len(WAITS) + 1} times: "
                    f"{type(error).__name__}: {error}; run the same command again to continue",
                ) from None
            print(f"trying again to {what}: {error}", file=sys.stderr)
            time.sleep(wait)
    raise AssertionError


def _is_of_the_network(error: Exception) -> bool:
    origins = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(origins & {"aiohttp", "botocore", "fsspec"})


def _head(store: Any, address: str) -> StoredObject:
    bucket, _, key = address.partition("/")
    head = store.call_s3("head_object", Bucket=bucket, Key=key)
    encrypted = head.get("ServerSideEncryption", "AES256") != "AES256"
    return StoredObject(
        num_bytes=head["ContentLength"],
        etag=_plain(head["ETag"]),
        sha256=head.get("Metadata", {}).get("sha256", ""),
        is_encrypted=encrypted or "SSECustomerAlgorithm" in head,
    )


def _plain(etag: str) -> str:
    return etag.strip('"')


def _etags(stream: Any) -> tuple[str, str]:
    """The ETags that S3 gives to a file: md5 of the whole, and md5 of the parts' md5s."""
    stream.seek(0)
    whole = hashlib.md5(usedforsecurity=False)
    parts = []
    while block := stream.read(PART_BYTES):
        whole.update(block)
        parts.append(hashlib.md5(block, usedforsecurity=False).digest())
    of_parts = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return whole.hexdigest(), f"{of_parts}-{len(parts)}"
