"""Convert weights, and reshard checkpoints for another number of processes.

    python -m train.checkpoint import SOURCE WEIGHTS.safetensors
    python -m train.checkpoint export SOURCE WEIGHTS.safetensors|FOLDER
    python -m train.checkpoint reshard RUN --processes 8

A SOURCE is a .pth file of VideoMAE or VideoMAE V2, a Hugging Face VideoMAE folder, a .safetensors
file of this project, or a run folder (or one of its checkpoints) of this project. Seconds for a
ViT-B. What does not fit exactly is refused, with the tensors that are missing or left over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shared.errors import InputError, user_errors
from shared.manifest import read_classes
from train.network.autoencoder import VideoEncoder
from train.options.recipe import parse_changes
from train.weights.exchange import ImportedWeights, import_weights, write_safetensors
from train.weights.huggingface import export_huggingface
from train.weights.own_runs import find_checkpoint, import_run, is_run
from train.weights.zero_partitions import reshard

PATH = click.Path(path_type=Path)
SOURCE = click.argument("source", type=PATH)
SETTINGS = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="What a .pth file does not tell of its model, such as num_frames=32 or num_heads=8.",
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what is at the target.")


CONTEXT: dict[str, Any] = {"show_default": True, "max_content_width": 100}


@click.group(context_settings=CONTEXT)
def main() -> None:
    """Read and write weights, and make checkpoints fit other numbers of processes.

    SOURCE is a .pth file of VideoMAE or VideoMAE V2, a Hugging Face VideoMAE folder, a .safetensors
    file of this project, or the folder of a run.
    """


@main.command("import", context_settings=CONTEXT)
@SOURCE
@click.argument("target", type=PATH)
@SETTINGS
@OVERWRITE
@user_errors
def import_command(source: Path, target: Path, settings: tuple[str, ...], overwrite: bool) -> None:
    """Read the weights of SOURCE and write TARGET, a .safetensors file of this project."""
    imported = read_any(source, parse_changes(settings))
    _refuse_existing(target, target, overwrite)
    write_safetensors(target, imported)
    print(described(imported, target))


@main.command("export", context_settings=CONTEXT)
@SOURCE
@click.argument("target", type=PATH)
@click.option(
    "--classes", type=PATH, metavar="FILE", help="classes.json, for the names in a folder's config."
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
    """Write the weights of SOURCE as TARGET: a Hugging Face folder, or a file FILE.safetensors."""
    imported = read_any(source, parse_changes(settings))
    if target.suffix == ".safetensors":
        if classes is not None:
            raise InputError("--classes names classes in a Hugging Face folder, not in a file")
        _refuse_existing(target, target, overwrite)
        write_safetensors(target, imported)
    else:
        model = imported.build()
        if isinstance(model, VideoEncoder):
            raise InputError(
                f"{source} holds an encoder alone, which Hugging Face's folders of pretraining "
                "and classification have no form for; export to FILE.safetensors"
            )
        names = None
        if classes is not None:
            if imported.kind != "classification":
                raise InputError(f"--classes: {source} is no classifier")
            names = read_classes(classes).label
        _refuse_existing(target, target / "config.json", overwrite)
        export_huggingface(target, model, names)
    print(described(imported, target))


@main.command("reshard", context_settings=CONTEXT)
@click.argument("run", type=PATH)
@click.option(
    "--processes",
    required=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that will continue the run.",
)
@user_errors
def reshard_command(run: Path, processes: int) -> None:
    """Make the newest checkpoint of the folder RUN fit another number of processes."""
    if not is_run(run):
        raise InputError(f"{run} is no run: it has no options.json")
    tag = reshard(find_checkpoint(run)[1], processes)
    print(f"{tag}: start {processes} processes to go on")


def read_any(source: Path, told: dict[str, Any]) -> ImportedWeights:
    """The weights of whatever the commands take."""
    if source.is_dir() and is_run(source):
        if told:
            raise InputError("--set: a run of this project records its model itself")
        return import_run(source)
    return import_weights(source, **told)


def described(imported: ImportedWeights, target: Path) -> str:
    """One line about weights that were written."""
    tensors = imported.state_dict.values()
    return (
        f"{imported.kind}, {sum(tensor.numel() for tensor in tensors):,} parameters, "
        f"{imported.config.num_tokens} tokens a clip: {target}"
    )


def _refuse_existing(target: Path, file: Path, overwrite: bool) -> None:
    if file.exists() and not overwrite:
        raise InputError(f"{target} exists already; --overwrite replaces it")


if __name__ == "__main__":
    main()
