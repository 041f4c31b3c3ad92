"""Readers of annotation files. The key `reader` in the TOML of a dataset names the module.

Each module of this folder is one reader. It has

    ROLES   the roles of the files that it reads, which are the keys of [files] in the TOML
    read    the function that reads them, Source -> Annotations
"""

from __future__ import annotations

import importlib
import pkgutil

from preprocess.annotations.base import Reader
from preprocess.annotations.dataset_spec import DatasetSpec
from shared.errors import InputError


def known_readers() -> list[str]:
    """The names of all readers, which are the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def reader_of(spec: DatasetSpec) -> Reader:
    """The reader of a dataset.

    Raises:
        InputError: there is no such reader, or [files] of the TOML has other roles than it reads.
    """
    where = f"data_manifests/{spec.name}.toml"
    if spec.reader not in known_readers():
        raise InputError(
            "unknown-name",
            f"{where}: unknown reader {spec.reader!r}; known: {', '.join(known_readers())}. To add "
            f"it, write preprocess/annotations/readers/{spec.reader}.py",
        )
    module = importlib.import_module(f"{__name__}.{spec.reader}")
    reader = Reader(module.ROLES, module.read)
    if set(spec.files) != set(reader.roles):
        raise InputError(
            "missing-key",
            f"{where}: [files] has {', '.join(spec.files)}, but the reader {spec.reader} needs "
            f"{', '.join(reader.roles)}",
        )
    return reader
