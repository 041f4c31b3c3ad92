"""Convert weights, and reshard checkpoints for another number of processes.

    python -m train.checkpoint import SOURCE WEIGHTS.safetensors
    python -m train.checkpoint export SOURCE WEIGHTS.safetensors|FOLDER
    python -m train.checkpoint reshard RUN --processes 8

A SOURCE is a .pth or .safetensors file of VideoMAE or VideoMAE V2, a Hugging Face VideoMAE folder,
a .safetensors file of this project, or a run folder of this project or one of its checkpoints. Of a
finished finetuning the weights are taken that `train.evaluate` tests. A ViT-B takes seconds.
Weights that do not fit exactly are refused; the message lists the tensors that are missing or left
over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shared.errors import InputError, user_errors
from shared.manifest import read_classes
from shared.run_record import RunLock
from train.network.autoencoder import VideoEncoder
from train.options.recipe import parse_changes
from train.running.run_folder import RunFolder
from train.weights.exchange import ImportedWeights, import_weights, write_safetensors
from train.weights.huggingface import FILES, export_huggingface
from train.weights.own_runs import (
    find_checkpoint,
    import_result,
    is_run,
    measured,
    with_usage,
)
from train.weights.zero_partitions import reshard

PATH = click.Path(path_type=Path)
SOURCE = click.argument("source", type=PATH)
SETTINGS = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Set an option of the model that a .pth file does not contain, such as num_frames=32 or "
    "num_heads=8. May be repeated.",
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")


CONTEXT: dict[str, Any] = {"show_default": True, "max_content_width": 100}


@click.group(context_settings=CONTEXT)
def main() -> None:
    """Convert weights, and convert checkpoints for another number of processes.

    SOURCE is a .pth file of VideoMAE or VideoMAE V2, a Hugging Face VideoMAE folder, a .safetensors
    file of this project, or a run folder of this project.
    """


@main.command("import", context_settings=CONTEXT)
@SOURCE
@click.argument("target", type=PATH)
@SETTINGS
@OVERWRITE
@user_errors
def import_command(source: Path, target: Path, settings: tuple[str, ...], overwrite: bool) -> None:
    """Convert the weights of SOURCE to TARGET, a .safetensors file of this project."""
    imported = read_any(source, parse_changes(settings))
    _refuse_existing(target, target, overwrite)
    write_safetensors(target, imported)
    print(described(imported, target))


@main.command("export", context_settings=CONTEXT)
@SOURCE
@click.argument("target", type=PATH)
@click.option(
    "--classes",
    type=PATH,
    metavar="FILE",
    help="File classes.json whose class names go into config.json of the Hugging Face folder. A "
    "run records the names itself.",
)
@SETTINGS
@OVERWRITE
@user_errors
def export_command(
    source: Path,
    target: Path,
    classes: Path | None,
    settings: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Convert the weights of SOURCE to TARGET, a Hugging Face folder or FILE.safetensors.

    The folder has config.json with the names of the classes, preprocessor_config.json, a model card
    (README.md) and model.safetensors. `pipeline("video-classification")` of transformers takes it.
    """
    imported = read_any(source, parse_changes(settings))
    if target.suffix == ".safetensors":
        if classes is not None:
            raise InputError(
                "option-unused",
                "--classes is for a Hugging Face folder, and TARGET is a file; leave --classes out",
            )
        _refuse_existing(target, target, overwrite)
        write_safetensors(target, imported)
    else:
        model = imported.build()
        if isinstance(model, VideoEncoder):
            raise InputError(
                "not-supported",
                f"{source} holds only an encoder, and a Hugging Face folder of VideoMAE holds a "
                "whole model; export it to FILE.safetensors",
            )
        names = None
        if classes is not None:
            if imported.kind != "classification":
                raise InputError(
                    "other-kind", f"--classes: {source} holds no classifier; leave --classes out"
                )
            names = read_classes(classes).label
        for name in FILES:  # a model card must not replace somebody's README.md
            _refuse_existing(target / name, target / name, overwrite)
        export_huggingface(target, model, names, imported.usage, measured(imported))
    print(described(imported, target))


@main.command("reshard", context_settings=CONTEXT)
@click.argument("run", type=PATH)
@click.option(
    "--processes",
    required=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of processes that continue the run.",
)
@user_errors
def reshard_command(run: Path, processes: int) -> None:
    """Convert the newest checkpoint of the run folder RUN for another number of processes."""
    if not is_run(run):
        raise InputError("other-kind", f"{run} is not a run folder: it has no options.json")
    with RunLock(RunFolder(run).lock):
        tag = reshard(find_checkpoint(run)[1], processes)
    print(f"{tag} is for {processes} processes; start that many to continue the run.")


def read_any(source: Path, overrides: dict[str, Any]) -> ImportedWeights:
    """Read the weights of any SOURCE, with values of --set."""
    if source.is_dir() and is_run(source):
        if overrides:
            raise InputError(
                "option-unused",
                "--set: a run of this project records all values of its model; leave --set out",
            )
        return import_result(source)
    return with_usage(import_weights(source, **overrides), source)


def described(imported: ImportedWeights, target: Path) -> str:
    """One line that describes the weights that were written."""
    tensors = imported.state_dict.values()
    return (
        f"{imported.kind}, {sum(tensor.numel() for tensor in tensors):,} parameters, "
        f"{imported.config.num_tokens} tokens per clip: {target}"
    )


def _refuse_existing(target: Path, file: Path, overwrite: bool) -> None:
    if file.exists() and not overwrite:
        raise InputError(
            "existing-output",
            f"{target} exists; give another TARGET, or replace it with --overwrite",
        )


if __name__ == "__main__":
    main()
