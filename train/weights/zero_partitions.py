"""Joins the partitions of ZeRO: reads whole weights, and converts to another number of processes.

DeepSpeed (0.19) puts the parameters of each parameter group into one flat vector, pads it to a
multiple of 2 * processes and gives each process an equal partition. A process saves its partition
of the float32 weights (on CPUs without the padding) and of AdamW's two means (with the padding).
DeepSpeed's own converters unpickle anything in a file. Here `safe_files` reads the files, as
elsewhere. Without ZeRO (stage 0) there are no partitions: the model file holds everything.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import InputError
from train.running.checkpoints import mark_complete, safe_files, saved_options
from train.running.engine import import_deepspeed

MODEL_FILE = "mp_rank_00_model_states.pt"
PART_FILE = re.compile(r"((?:bf16_)?zero_pp_rank_)(\d+)(_mp_rank_00_optim_states\.pt)")
ALIGNMENT = 2  # DeepSpeed's nccl_start_alignment_factor

# Keys of DeepSpeed's files.
STATE, ADAM, WEIGHTS = (
    "optimizer_state_dict",
    "base_optimizer_state",
    "single_partition_of_fp32_groups",
)


def read_whole_weights(tag: Path) -> dict[str, Tensor]:
    """The float32 weights of a checkpoint by name, on the CPU.

    Raises:
        InputError: a file is missing, damaged, or not from a run.
    """
    model, parts = _read(tag)
    weights = {name: tensor.float() for name, tensor in model["module"].items()}
    if not parts:
        return weights
    for group, shapes in enumerate(model["param_shapes"]):
        flat = _joined([part[STATE][WEIGHTS][group] for part in parts], _length(shapes))
        pieces = flat.split([shape.numel() for shape in shapes.values()])
        for (name, shape), values in zip(shapes.items(), pieces, strict=True):
            weights[name] = values.view(shape).clone()
    return weights


def reshard(tag: Path, num_processes: int) -> Path:
    """Write the state of a checkpoint for another number of processes, beside the checkpoint.

    Returns:
        The new checkpoint, which is now the newest of the run. It is written last, so that a kill
        leaves no incomplete checkpoint.

    Raises:
        InputError: the checkpoint fits this number of processes, or cannot be read.
    """
    model, parts = _read(tag)
    if not parts:
        raise InputError(
            "other-processes",
            f"{tag} was saved with loader.zero_stage 0, which partitions nothing; continue with "
            "any number of processes",
        )
    if len(parts) == num_processes:
        raise InputError(
            "other-processes",
            f"{tag} is already for {num_processes} processes; start that many to continue the run",
        )
    lengths = [_length(shapes) for shapes in model["param_shapes"]]
    target = tag.with_name(f"{tag.name}-of-{num_processes}")  # names sort by step, then by age
    shutil.rmtree(target, ignore_errors=True)  # a kill may have left it incomplete
    target.mkdir()
    files, names = safe_files(), _part_names(tag)
    files.save({**model, "dp_world_size": num_processes}, str(target / MODEL_FILE))
    for rank in range(num_processes):
        part = {**parts[0], STATE: _share(parts, lengths, rank, num_processes)}
        name = PART_FILE.sub(rf"\g<1>{rank}\g<3>", names[0])
        files.save(part, str(target / name))
    mark_complete(target, model["progress"]["step"], saved_options(tag))
    return target


def _share(
    parts: list[dict[str, Any]], lengths: list[int], rank: int, num_processes: int
) -> dict[str, Any]:
    """The partition that process `rank` of `num_processes` would have saved."""
    states = [part[STATE] for part in parts]
    weights, paddings = [], []
    adam: dict[int, dict[str, Any]] = {}
    for group, length in enumerate(lengths):
        size = -(-length // (ALIGNMENT * num_processes)) * ALIGNMENT
        own = slice(rank * size, (rank + 1) * size)
        flat = _joined([state[WEIGHTS][group] for state in states], length)
        weights.append(flat[own].clone())
        paddings.append(size - len(weights[-1]))
        adam[group] = {}
        for name, value in states[0][ADAM]["state"].get(group, {}).items():
            if value.dim() > 0:  # a mean, not the number of steps
                saved = [state[ADAM]["state"][group][name] for state in states]
                value = _joined(saved, length)[own]
                value = torch.cat([value, value.new_zeros(size - len(value))])
            adam[group][name] = value
    share = {
        **states[0],
        WEIGHTS: weights,
        ADAM: {**states[0][ADAM], "state": adam},
        "group_paddings": paddings,
        "partition_count": [num_processes] * len(lengths),
    }
    share.pop("param_slice_mappings", None)  # for the old partitions; loading does not need it
    return share


def _read(tag: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The state of the model, and the partitions by rank; no partitions without ZeRO."""
    import_deepspeed("cpu")
    files = safe_files()
    names = _part_names(tag)
    if not (tag / MODEL_FILE).is_file():
        raise InputError(
            "missing-file", f"{tag} is not a checkpoint of a run: {MODEL_FILE} is missing"
        )
    model = files.load(str(tag / MODEL_FILE), map_location="cpu")
    if not names and model.get("optimizer") is not None and "module" in model:
        return model, []
    if not names:
        raise InputError(
            "missing-file",
            f"{tag} is not a checkpoint of a run: the partitions of its processes are missing",
        )
    parts = [files.load(str(tag / name), map_location="cpu") for name in names]
    try:
        num_processes = model["dp_world_size"]
        complete = all({ADAM, WEIGHTS} <= part[STATE].keys() for part in parts)
    except (KeyError, TypeError, AttributeError):
        complete = False
    if not complete or not {"module", "param_shapes", "progress"} <= model.keys():
        raise InputError(
            "wrong-format", f"{tag} does not hold the state of a run; give another checkpoint"
        )
    if num_processes != len(parts):
        raise InputError(
            "damaged-file",
            f"{tag} holds {len(parts)} of {num_processes} partitions; give another checkpoint",
        )
    return model, parts


def _part_names(tag: Path) -> list[str]:
    """File names of the partitions, by rank."""
    found = [match for path in tag.glob("*") if (match := PART_FILE.fullmatch(path.name))]
    return [match[0] for match in sorted(found, key=lambda match: int(match[2]))]


def _length(shapes: dict[str, torch.Size]) -> int:
    return sum(shape.numel() for shape in shapes.values())


def _joined(parts: list[Tensor], length: int) -> Tensor:
    """Join the partitions of a flat vector [length], with or without the padding."""
    flat = torch.cat([part.detach().flatten() for part in parts])
    if len(flat) < length:
        raise InputError(
            "damaged-file",
            f"the partitions of a checkpoint hold {len(flat)} of {length} "
            "numbers; give another one",
        )
    return flat[:length]
