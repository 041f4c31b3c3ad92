"""What was made from the manifest of a dataset, and no longer fits if the manifest changes."""

from __future__ import annotations

from shared.files import file_sizes
from shared.layout import DatasetLayout

SHARD_FOLDERS = ("frames", "flows", "flows-*", "boxes", "boxes-*")


def dependents(layout: DatasetLayout, with_shards: bool) -> list[str]:
    """Folders below the folder of the dataset: its training runs, and its shards if asked for.

    Args:
        layout: the dataset.
        with_shards: whether shards count. They do not depend on labels and splits.
    """
    patterns = SHARD_FOLDERS if with_shards else ()
    shards = sorted({path for pattern in patterns for path in layout.root.glob(pattern)})
    runs = sorted(path.parent for path in layout.runs.glob("*/options.json"))
    made = [path for path in shards if any(name.endswith(".h5") for name in file_sizes(path))]
    return [path.relative_to(layout.root).as_posix() for path in [*made, *runs]]
