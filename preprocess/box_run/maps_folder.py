"""The folder of flows that `preprocess.boxes` reads, by flow source and preset."""

from __future__ import annotations

from pathlib import Path

from preprocess.flow.sources import MOTION_VECTORS
from preprocess.motion_boxes.presets import OF_BOUNDARIES
from shared.errors import InputError
from shared.layout import BOUNDARIES, DatasetLayout
from shared.make_commands import first_source, make_flows
from shared.shard_index import DatasetIndex, read_index

OTHER_MAPS = {
    "boundaries": "maps as MOFO's public code makes them, which are for --preset "
    + " or ".join(OF_BOUNDARIES),
    "length": "how far things move, which is for the mask mgm and not for boxes",
}


def maps_folder(layout: DatasetLayout, source: str | None, preset: str) -> Path:
    """The finished flows of a source, with the maps that a preset is for.

    Args:
        source: as the command has it; None is that of flows/.

    Raises:
        InputError: they are not there or not finished, hold other maps, or other clips than
            frames/ and flows/.
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
            f"{folder} holds {OTHER_MAPS.get(kind, f'maps {kind!r}')}; --preset {preset} is for "
            "motion maps of equation 1, such as those of flows/: give another --source, or preset"
        )
    for other in (layout.frames, layout.flows):
        found = read_index(other)
        if found is not None and _clips(found) != _clips(index):
            raise InputError(
                f"{folder} holds other clips than {other}, as an earlier run left it: remove it, "
                f"and make it again with `{make_flows(layout, folder)}`"
            )
    return folder


def _flows_folder(layout: DatasetLayout, source: str | None) -> Path:
    first = read_index(layout.flows)
    if first is not None and source in (None, first.config.get("flow_source")):
        return layout.flows
    if source is None:
        raise InputError(
            f"{layout.flows} is not complete (no dataset.json); run `{layout.make('flows')}`"
        )
    folder = layout.flows_of(source)
    if read_index(folder) is None:
        raise InputError(
            f"{folder} is not there or not complete (no dataset.json); run "
            f"`{make_flows(layout, folder)}`"
        )
    return folder


def _boundaries_folder(layout: DatasetLayout, source: str | None, preset: str) -> Path:
    """The boundaries maps of a source; without `source` those of the first, or the only ones."""
    wanted = (source or first_source(layout)).removesuffix(BOUNDARIES)
    folder = layout.flows_of(wanted + BOUNDARIES)
    if read_index(folder) is not None:
        return folder
    folders = sorted(layout.root.glob(layout.flows_of("*" + BOUNDARIES).name))
    others = [path for path in folders if read_index(path) is not None]
    if source is None and len(others) == 1:
        return others[0]
    reason = f"--preset {preset} is for maps as that code makes them, and "
    if others:
        names = ", ".join(path.name.removeprefix("flows-") for path in others)
        raise InputError(f"{reason}there are none of {wanted}; give --source with one of {names}")
    if wanted == MOTION_VECTORS:  # such maps are made of flow of every pixel
        folder = layout.flows_of("tvl1" + BOUNDARIES)
    raise InputError(
        f"{reason}{folder} is not there or not complete (no dataset.json); run "
        f"`{make_flows(layout, folder)}`"
    )


def _clips(index: DatasetIndex) -> tuple:
    """Identifies the clips of a folder without opening its shards."""
    return index.manifest_digest, index.clips_per_shard, [entry.clips for entry in index.shards]
