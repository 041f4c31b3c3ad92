"""Reads the weights of a run from its checkpoints; the run need not be finished."""

from __future__ import annotations

from pathlib import Path

from shared.errors import InputError
from train.network.head_config import HeadConfig
from train.network.model_config import ModelConfig
from train.running.checkpoints import complete_checkpoints
from train.running.run_folder import RunFolder
from train.weights.exchange import ImportedWeights
from train.weights.zero_partitions import read_whole_weights


def is_run(path: Path) -> bool:
    """Whether a folder is a run folder or one of its checkpoints."""
    return (path / "options.json").is_file() or (path.parent.parent / "options.json").is_file()


def find_checkpoint(path: Path) -> tuple[RunFolder, Path]:
    """The run of a folder, and a checkpoint: the folder itself, or the newest one of the run.

    Raises:
        InputError: the run has no complete checkpoint.
    """
    if not (path / "options.json").is_file():
        run, tag = RunFolder(path.parent.parent), path
        if tag not in complete_checkpoints(run.checkpoints):
            raise InputError(
                "not-finished",
                f"{tag} is not a complete checkpoint; give another one, or the run folder",
            )
        return run, tag
    run = RunFolder(path)
    saved = complete_checkpoints(run.checkpoints)
    if not saved:
        raise InputError(
            "not-finished",
            f"{path} has no complete checkpoint; run its command to the first checkpoint",
        )
    return run, saved[-1]


def import_run(path: Path) -> ImportedWeights:
    """The float32 weights of the newest checkpoint of a run, or of a given checkpoint.

    Raises:
        InputError: there is no checkpoint, or it is damaged or holds another model.
    """
    run, tag = find_checkpoint(path)
    options = run.read_options()
    state, source = read_whole_weights(tag), str(tag)
    config = ModelConfig.from_dict(options["config"]["model"])
    if options["command"] == "pretrain":
        imported = ImportedWeights("pretraining", config, state, source)
    else:
        head = HeadConfig.from_dict(options["config"]["head"])
        imported = ImportedWeights(
            "classification", config, state, source, num_classes=options["classes"], head=head
        )
    imported.check()
    return imported
