"""The formats by name, as `reader` in the TOML files of data_manifests/ has them."""

from __future__ import annotations

from preprocess.annotations import diving48, epic100, hmdb51, k400, own_csv, ssv2, ucf101
from preprocess.annotations.base import Reader
from preprocess.annotations.dataset_spec import DatasetSpec
from shared.errors import InputError

READERS: dict[str, Reader] = {
    "diving48": Reader(diving48.ROLES, diving48.read),
    "epic100": Reader(epic100.ROLES, epic100.read),
    "hmdb51": Reader(hmdb51.ROLES, hmdb51.read),
    "k400": Reader(k400.ROLES, k400.read),
    "own_csv": Reader(own_csv.ROLES, own_csv.read),
    "ssv2": Reader(ssv2.ROLES, ssv2.read),
    "ucf101": Reader(ucf101.ROLES, ucf101.read),
}


def reader_of(spec: DatasetSpec) -> Reader:
    """The reader that a dataset's TOML names.

    Raises:
        InputError: there is no such reader, or the TOML does not list the files that it reads.
    """
    where = f"data_manifests/{spec.name}.toml"
    if spec.reader not in READERS:
        raise InputError(f"{where}: reader {spec.reader!r} is none of {', '.join(READERS)}")
    reader = READERS[spec.reader]
    if set(spec.files) != set(reader.roles):
        raise InputError(
            f"{where}: [files] lists {', '.join(spec.files)}; reader {spec.reader} wants "
            f"{', '.join(reader.roles)}"
        )
    return reader
