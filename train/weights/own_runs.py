"""The weights of a run of ours, finished or not, out of its checkpoints."""

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
    """Whether a folder is a run, or one of its checkpoints."""
    return (path / "options.json").is_file() or (path.parent.parent / "options.json").is_file()


def find_checkpoint(path: Path) -> tuple[RunFolder, Path]:
    """The run of a folder, and the checkpoint meant: itself, or the newest of the run.

    Raises:
        InputError: the run has no complete checkpoint.
    """
    if not (path / "options.json").is_file():
        run, tag = RunFolder(path.parent.parent), path
        if tag not in complete_checkpoints(run.checkpoints):
            raise InputError("not-finished", f"{tag} is no complete checkpoint")
        return run, tag
    run = RunFolder(path)
    saved = complete_checkpoints(run.checkpoints)
    if not saved:
        raise InputError("not-finished", f"{path} has no complete checkpoint")
    return run, saved[-1]


def import_run(path: Path) -> ImportedWeights:
    """The float32 weights of a run's newest checkpoint, or of a given one of its checkpoints.

    Raises:
        InputError: there is none, it is damaged, or it does not hold exactly the run's model.
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
