"""Finds the folder of flows that `preprocess.boxes` reads, by flow source and preset."""

from __future__ import annotations

from pathlib import Path

from preprocess.flow.sources import MOTION_VECTORS
from preprocess.motion_boxes.presets import OF_BOUNDARIES
from shared.errors import InputError
from shared.layout import BOUNDARIES, DatasetLayout
from shared.make_commands import first_source, make_flows
from shared.shard_index import DatasetIndex, read_index

OTHER_MAPS = {
    "boundaries": "the motion maps of MOFO's public code, which are for --motion-preset "
    + " or ".join(OF_BOUNDARIES),
    "length": "the length of the flow, which is for the mask mgm and not for boxes",
}
"""By the kind of map in a config: what the folder holds, and what it is for."""


def maps_folder(layout: DatasetLayout, source: str | None, preset: str) -> Path:
    """Find the finished flows of a source that hold the maps that a preset needs.

    Args:
        layout: folders of the dataset.
        source: name of the flow source, the value of --source; None is the source of flows/.
        preset: name of the preset of the boxes.

    Raises:
        InputError: the folder does not exist or is not complete, or it holds other maps than the
            preset needs, or other clips than frames/ and flows/.
    """
    if preset in OF_BOUNDARIES:
        folder = _boundaries_folder(layout, source, preset)
    else:
        folder = _flows_folder(layout, source)
    index = read_index(folder)
    assert index is not None, folder
    kind = index.config.get("map")
    if kind is not None and preset not in OF_BOUNDARIES:
        raise InputError(
            "other-kind",
            f"{folder} holds {OTHER_MAPS.get(kind, f'maps of kind {kind!r}')}; "
            f"--motion-preset {preset} needs motion maps of equation 1, such as those of flows/: "
            "give another --source or another --motion-preset",
        )
    for other in (layout.frames, layout.flows):
        found = read_index(other)
        if found is not None and _clips(found) != _clips(index):
            raise InputError(
                "other-clips",
                f"{folder} was made by an earlier run and holds other clips than {other}; remove "
                f"it, and make it again with `{make_flows(layout, folder)}`",
            )
    return folder


def _flows_folder(layout: DatasetLayout, source: str | None) -> Path:
    first = read_index(layout.flows)
    if first is not None and source in (None, first.config.get("flow_source")):
        return layout.flows
    if source is None:
        raise _not_complete(layout, layout.flows)
    folder = layout.flows_of(source)
    if read_index(folder) is None:
        raise _not_complete(layout, folder)
    return folder


def _not_complete(layout: DatasetLayout, folder: Path) -> InputError:
    return InputError(
        "not-finished",
        f"{folder} does not exist or is not complete (no dataset.json); run "
        f"`{make_flows(layout, folder)}`",
    )


def _boundaries_folder(layout: DatasetLayout, source: str | None, preset: str) -> Path:
    """Find the boundaries maps of a source; without `source` those of flows/, or the only ones."""
    wanted = (source or first_source(layout)).removesuffix(BOUNDARIES)
    folder = layout.flows_of(wanted + BOUNDARIES)
    if read_index(folder) is not None:
        return folder
    folders = sorted(layout.root.glob(layout.flows_of("*" + BOUNDARIES).name))
    others = [path for path in folders if read_index(path) is not None]
    if source is None and len(others) == 1:
        return others[0]
    if others:
        names = ", ".join(path.name.removeprefix("flows-") for path in others)
        raise InputError(
            "unknown-name",
            f"--motion-preset {preset} needs the motion maps of MOFO's public code, and there are "
            f"none of {wanted}; give --source with one of {names}",
        )
    if wanted == MOTION_VECTORS:  # such maps need a flow vector for every pixel
        folder = layout.flows_of("tvl1" + BOUNDARIES)
    raise _not_complete(layout, folder).at(
        f"--motion-preset {preset} needs the motion maps of MOFO's public code"
    )


def _clips(index: DatasetIndex) -> tuple[str, int, list[int]]:
    """What identifies the clips of a folder; it needs no shard."""
    return index.manifest_digest, index.clips_per_shard, [entry.clips for entry in index.shards]
