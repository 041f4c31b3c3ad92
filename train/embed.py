"""Writes the features of clips: one vector for each clip, time step or token, as HDF5 or Parquet.

    python -m train.embed --dataset ssv2 --from pretrain-mofo
    python -m train.embed --dataset ssv2 --from videomae-base --per token --dtype float16
    python -m train.embed --dataset ssv2 --from finetune-mofo-mca --formats h5,parquet

--from takes a run, or weights of others: a Hugging Face folder, a .safetensors or a .pth file. A
clip has the mean of the encoder's tokens; for a finetuned model, the pooled vector that its
classifier gets. With --per step or token it has the mean of each time step, or the encoder's output
for each token.

Writes OUT/<dataset>/runs/embed-<name>/: options.json, part-NNNNN.h5 and part-NNNNN.parquet, and
finished at the end. A part holds a fixed number of clips in the order of the shards, and memory
does not grow with the dataset. A stopped command continues with the next part, and ends with the
same bytes. It takes one forward pass for each view of a clip.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from tqdm import tqdm

from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from shared.manifest import SPLITS, read_manifest
from shared.progress import bar_options
from shared.run_record import JsonlLog, RunLock, read_jsonl
from shared.wording import counted
from train.clips.table import ClipTable, read_clip_table
from train.options.chosen_recipe import choose_recipe
from train.options.config import EvaluateConfig, LoaderConfig
from train.options.recipe import finetune_config, loader_config, read_recipe
from train.running.command import data_options, run_option, with_workers
from train.running.finetune_inputs import find_weights, short_name
from train.running.run_folder import RunFolder

if TYPE_CHECKING:
    from train.evaluation.embedding import Embedder
    from train.evaluation.feature_files import Features

PER = ("clip", "step", "token")
DTYPES = ("float32", "float16")
FORMATS = ("h5", "parquet")
PART_BYTES = 256 << 20  # of features; a part is in memory while it is computed
MOST_CLIPS = 2048  # in a part, so that a kill costs little
POSITIVE = click.IntRange(min=1)


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@data_options
@click.option("--from", "source", required=True, metavar="RUN|WEIGHTS",
              help="Compute the features of this run, or of these weights: a Hugging Face folder, "
              "a .safetensors file, or a .pth file of VideoMAE.")  # fmt: skip
@click.option("--per", type=click.Choice(PER), default="clip",
              help="What has a vector: each clip, each time step, or each token.")  # fmt: skip
@click.option("--split", "splits", multiple=True, type=click.Choice(SPLITS),
              show_default="all splits",
              help="Split whose clips are embedded. May be repeated.")  # fmt: skip
@click.option("--segments", default=1, type=POSITIVE, metavar="N",
              help="Number of views of each clip, at even distances in time. The vectors of all "
              "views are averaged.")  # fmt: skip
@click.option("--crops", default=1, type=POSITIVE, metavar="N",
              help="Number of square crops of each view along the long side of the frame. 1 is the "
              "centre.")  # fmt: skip
@click.option("--formats", default="h5", metavar="NAMES",
              help=f"Formats of the files, separated by commas: {', '.join(FORMATS)}.")  # fmt: skip
@click.option("--dtype", type=click.Choice(DTYPES), default="float32",
              help="Number format of the features in the files.")  # fmt: skip
@click.option("--clips-per-part", type=POSITIVE, metavar="CLIPS",
              show_default=f"as many as have 256 MB, at most {MOST_CLIPS}",
              help="Number of clips in a file.")  # fmt: skip
@click.option("--recipe", type=click.Path(path_type=Path), metavar="FILE",
              help="Recipe file, or a name in train/recipes/: how frames are sampled for weights "
              "that do not say it.  [default: by dataset]")  # fmt: skip
@run_option("Name of the folder that the command writes.")
@click.option("--overwrite", is_flag=True,
              help="Delete what an earlier run wrote, and start again.")  # fmt: skip
@user_errors
def main(
    dataset: str,
    out: Path,
    workers: int | None,
    device: str,
    source: str,
    per: str,
    splits: tuple[str, ...],
    segments: int,
    crops: int,
    formats: str,
    dtype: str,
    clips_per_part: int | None,
    recipe: Path | None,
    run: str | None,
    overwrite: bool,
) -> None:
    """Write the features of the clips of a dataset, with any run or imported weights."""
    # -----------------------------------------------------------------------------------------
    # Resolve
    # -----------------------------------------------------------------------------------------
    names = read_formats(formats)
    if per == "token" and segments * crops > 1:
        raise InputError(
            "option-conflict",
            f"--per token with {segments} x {crops} views: the tokens of different views are of "
            "different places, and have no mean; leave --segments and --crops out",
        )
    layout = DatasetLayout(out, dataset)
    tables = read_recipe(dataset, choose_recipe(layout, recipe)[0])
    weights = find_weights(layout, source)
    if weights is None:
        raise InputError("unknown-name", "--from none: random weights have no features; name a run")
    # Imported here, which takes seconds: what is wrong above is reported without waiting for it.
    from train.evaluation.embedding import read_embedder
    from train.running.engine import one_process
    from train.samples.coded_views import check_decoding
    from train.weights.files import digest_of

    embedder = read_embedder(weights, finetune_config(tables, None), per)
    chosen = splits or SPLITS
    table = read_clip_table(layout, chosen, embedder.needs_boxes, box_source=embedder.box_source)
    loader = replace(with_workers(loader_config(tables), workers), cache_megabytes=0)
    bytes_per_clip = int(np.prod(embedder.shape)) * 4  # in memory
    per_part = clips_per_part or max(1, min(MOST_CLIPS, PART_BYTES // bytes_per_clip))
    folder = RunFolder(layout.runs / (run or f"embed-{short_name(source)}"))
    options = {
        "command": "embed",
        "dataset": dataset,
        "data": table.data_digest,
        "clips": len(table),
        "splits": list(chosen),
        "from": source,
        "from_digest": digest_of(weights),
        "per": per,
        "frames": embedder.frames.to_table(),
        "segments": segments,
        "crops": crops,
        "formats": list(names),
        "dtype": dtype,
        "clips_per_part": per_part,
        "micro_batch_size": loader.micro_batch_size,  # rounding depends on it
        "precision": loader.precision,
        **({} if loader.decode == "cpu" else {"decode": loader.decode}),
        "config": {"model": embedder.model.to_dict(), "head": embedder.head.to_dict()},
    }
    num_parts = -(-len(table) // per_part)
    print(f"embed: {counted(len(table), 'clip')} with {weights}, to {folder.path}")
    print(f"  vector   {embedder.description} Shape of a clip: {list(embedder.shape)}.")
    print(f"  frames   {embedder.frames.to_table()}, {segments} x {crops} views")
    print(f"  files    {counted(num_parts, 'part')} of up to {counted(per_part, 'clip')}")
    with RunLock(folder.lock), folder.restored_on_failure(True):
        folder.begin(options, overwrite)
        # -------------------------------------------------------------------------------------
        # Compute, part by part
        # -------------------------------------------------------------------------------------
        done = finished_parts(folder, names)
        process = one_process(device)
        check_decoding(loader, process.device)
        network = embedder.build().eval().to(process.device)
        views = EvaluateConfig("test", segments, crops)
        split_of = {clip.clip_id: clip.split for clip in read_manifest(layout.manifest)}
        bar = tqdm(
            total=len(table),
            initial=min(len(table), len(done) * per_part),
            desc="embed",
            unit="clip",
            **bar_options(),
        )
        with closing(JsonlLog(folder.log)) as log, closing(bar):
            for part in range(num_parts):
                if part in done:
                    continue
                rows = np.arange(part * per_part, min((part + 1) * per_part, len(table)))
                some = table.take(rows)
                values = compute(embedder, network, some, views, loader, process)
                found = features_of(embedder, some, values.astype(dtype), split_of)
                log.write(write_part(folder, part, names, found))
                folder.drop_replaced()
                bar.update(len(some))
        folder.finish({"clips": len(table), "parts": num_parts})
    print(f"{folder.path} has the features of {counted(len(table), 'clip')}.")


def read_formats(text: str) -> tuple[str, ...]:
    """Split `h5,parquet`; Parquet is refused where it cannot be written.

    Raises:
        InputError: a name is unknown, or pyarrow is not installed.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise InputError(
                "unknown-name",
                f"--formats {text}: unknown format {name!r}; known: {', '.join(FORMATS)}",
            )
    if "parquet" in names:
        from train.evaluation.feature_files import import_pyarrow

        import_pyarrow()
    return names


def compute(
    embedder: Embedder,
    network: Any,
    table: ClipTable,
    views: EvaluateConfig,
    loader: LoaderConfig,
    process: Any,
) -> np.ndarray:
    """The features of the clips of a table, float32 [n, ...], averaged over their views."""
    from train.evaluation.scoring import mean_over_views
    from train.samples.datasets import EvaluateDataset

    head = embedder.head
    dataset = EvaluateDataset(
        table, embedder.model, embedder.frames, views, loader, head.box, inside=head.inside
    )
    found = mean_over_views(
        lambda batch: {"feature": embedder.compute(network, batch)},
        network, dataset, loader, process, "part",
    )  # fmt: skip
    return found["feature"].reshape(len(table), *embedder.shape)


def features_of(
    embedder: Embedder, table: ClipTable, values: np.ndarray, split_of: dict[str, str]
) -> Features:
    """The features with what is known of their clips."""
    from train.evaluation.feature_files import Features

    model = embedder.model
    return Features(
        table.ids,
        [split_of[table.clip_id(row)] for row in range(len(table))],
        table.labels,
        values,
        (model.time_steps, model.grid, model.grid),
        embedder.dims,
        embedder.description,
    )


def write_part(
    folder: RunFolder, part: int, names: tuple[str, ...], features: Features
) -> dict[str, Any]:
    """Write the files of a part; returns its line of the log."""
    from train.evaluation.feature_files import WRITERS

    files = {}
    for name in names:
        path = part_path(folder, part, name)
        WRITERS[name](path, features)
        files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"event": "part", "part": part, "clips": len(features.ids), "sha256": files}


def finished_parts(folder: RunFolder, names: tuple[str, ...]) -> set[int]:
    """The parts of an earlier run whose files are as they were written."""
    done = set()
    for line in read_jsonl(folder.log, skip_damaged=True):
        paths = {name: part_path(folder, line["part"], name) for name in names}
        if all(
            path.is_file()
            and hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"].get(name)
            for name, path in paths.items()
        ):
            done.add(line["part"])
    return done


def part_path(folder: RunFolder, part: int, name: str) -> Path:
    return folder.path / f"part-{part:05d}.{name}"


if __name__ == "__main__":
    main()
