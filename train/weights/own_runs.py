"""Reads the weights of a run from its checkpoints; the run need not be finished."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from shared.errors import InputError
from train.network.head_config import HeadConfig
from train.network.model_config import ModelConfig
from train.running.checkpoints import complete_checkpoints
from train.running.run_folder import RunFolder
from train.weights.exchange import ImportedWeights, import_weights
from train.weights.files import digest_of
from train.weights.usage import Usage
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
    usage = Usage.of_run(options)
    if options["command"] == "pretrain":
        imported = ImportedWeights("pretraining", config, state, source, usage=usage)
    else:
        head = HeadConfig.from_dict(options["config"]["head"])
        imported = ImportedWeights(
            "classification",
            config,
            state,
            source,
            num_classes=options["classes"],
            head=head,
            usage=usage,
        )
    imported.check()
    return imported


def import_result(path: Path) -> ImportedWeights:
    """The weights that a run folder stands for: those that `train.evaluate` tests, if it is done.

    These are the best weights on split val of a finished finetuning. Otherwise, and for a given
    checkpoint, they are those of `import_run`.
    """
    run = RunFolder(path)
    if run.is_finished and run.best_weights.is_file():
        return with_usage(import_weights(run.best_weights), run.best_weights)
    return import_run(path)


def with_usage(imported: ImportedWeights, file: Path) -> ImportedWeights:
    """The same weights with what the run says about their use, if the file lies in a run folder."""
    run = RunFolder(file.parent)
    if imported.usage != Usage() or not run.options.is_file():
        return imported
    return replace(imported, usage=Usage.of_run(run.read_options()))


def measured(imported: ImportedWeights) -> list[str]:
    """Sentences with the accuracies of weights that lie in the folder of their run.

    Only results count that were measured with exactly these weights.
    """
    file = Path(imported.source)
    if not (file.is_file() and (file.parent / "options.json").is_file()):
        return []
    digest, sentences = digest_of(file), []
    for path in sorted(file.parent.glob("metrics-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("weights_digest") == digest and "top1" in found:
            sentences.append(
                f"Top-1 on split {found['split']} of {found['dataset']}: {found['top1']:.1f} % of "
                f"{found['clips']:,} clips, {found['segments']} x {found['crops']} views each."
            )
    return sentences
