"""Readers of annotation files, one module each, found by the `reader` that a dataset's TOML names.

A module here is a reader: its name is the reader's name. It holds

    ROLES   the roles of files that it reads, as [files] of the TOML lists them
    read    the function that reads them, Source -> Annotations
"""

from __future__ import annotations

import importlib
import pkgutil

from preprocess.annotations.base import Reader
from preprocess.annotations.dataset_spec import DatasetSpec
from shared.errors import InputError


def known_readers() -> list[str]:
    """Names of the readers: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def reader_of(spec: DatasetSpec) -> Reader:
    """The reader that a dataset's TOML names.

    Raises:
        InputError: there is no such reader, or the TOML does not list the files that it reads.
    """
    where = f"data_manifests/{spec.name}.toml"
    if spec.reader not in known_readers():
        raise InputError(
            f"{where}: reader {spec.reader!r} is none of {', '.join(known_readers())}; to add one, "
            f"write preprocess/annotations/readers/{spec.reader}.py"
        )
    module = importlib.import_module(f"{__name__}.{spec.reader}")
    reader = Reader(module.ROLES, module.read)
    if set(spec.files) != set(reader.roles):
        raise InputError(
            f"{where}: [files] lists {', '.join(spec.files)}; reader {spec.reader} wants "
            f"{', '.join(reader.roles)}"
        )
    return reader
