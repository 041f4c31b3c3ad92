"""Measures the main figure of the toy dataset beside baselines.

    make                                          # makes the dataset and the main figure
    python -m benchmarks.toy_baselines --out out --seeds 0,1,2

The command prints the test top-1 of

    the main figure           pretrained on velocities, then finetuned on 30 labels a class
    ... by other methods      pretrained by MOFO and by VideoMAE instead
    from random weights       the same finetuning without pretraining
    cross attention           finetuning with the motion-focused head after the same pretraining
    ... and random boxes      the same, but each clip has the motion boxes of another clip
    the last frame            a small convolutional network on the pixels of the last frame
    the object's last box     boosted trees on the true box in the last frame
    the camera                boosted trees on the true pan, zoom, roll and shake of all frames

The last frame must stay below 35 % and the camera at chance (12.5 %). Otherwise the labels could be
predicted without motion. A seed takes about 15 minutes on two cores. Finished runs are used again,
so a stopped command continues where it stopped. The figures are written to benchmarks/results/.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import av
import click
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn
from tqdm import tqdm

from benchmarks.options import whole_numbers
from benchmarks.record import machine
from benchmarks.toy_boxes import with_random_boxes
from benchmarks.training_runs import Trainer, mean_and_spread, summary
from preprocess.toy_clips.scene import CLASSES, NUM_FRAMES, SIZE, make_scene
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import Clip, read_manifest
from shared.run_record import versions
from train.options.recipe import RECIPES

METHODS = ("velocity", "mofo", "videomae")  # the first is the one of `make`
RESULTS = Path(__file__).parent / "results" / "toy_baselines.json"
NUM_CLASSES = len(CLASSES.label)
BATCH = 64
LEARNING_RATE = 2e-3
SHIFT = 4  # px


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder of all datasets. The toy dataset is read from FOLDER/toy.")  # fmt: skip
@click.option("--seeds", default="0,1,2", metavar="LIST",
              help="Seeds for weight initialisation, data order and masks.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), default=30, metavar="EPOCHS",
              help="Epochs of the network on the last frame.")  # fmt: skip
@user_errors
def main(out: Path, seeds: str, epochs: int) -> None:
    layout = DatasetLayout(out, "toy")
    if not layout.boxes.is_dir():
        raise InputError(
            "not-finished", f"no toy dataset with boxes in {layout.root}; make one with `make`"
        )
    chosen = list(whole_numbers("--seeds", seeds))
    stills = read_stills(layout)
    figures: dict[str, list[float]] = {}
    for seed in chosen:
        for name, figure in (trained(layout, seed) | guessed(stills, seed, epochs)).items():
            figures.setdefault(name, []).append(round(figure, 1))
            print(f"seed {seed}: {name:28} {figure:5.1f} %", flush=True)
        record(chosen, figures)
    print(f"test top-1, seeds {seeds} (chance {100 / NUM_CLASSES} %)")
    for name, each in figures.items():
        print(f"  {name:28} {mean_and_spread(each)}")
    print(f"results {RESULTS}")


def record(chosen: list[int], figures: dict[str, list[float]]) -> None:
    """Write the results of all seeds so far."""
    rows = {name: summary(each) for name, each in figures.items()}
    done = chosen[: len(next(iter(figures.values())))]
    command = f"python -m benchmarks.toy_baselines --seeds {','.join(map(str, done))}"
    content = {
        "command": command,
        "machine": machine(),
        "versions": versions(),
        "seeds": done,
        "top1": rows,
    }
    write_atomically(RESULTS, json.dumps(content, indent=1).encode() + b"\n")


def trained(layout: DatasetLayout, seed: int) -> dict[str, float]:
    """Test top-1 of the trainings with one seed, in percent."""
    trainer = Trainer(layout)
    end = f"-seed{seed}" if seed else ""  # the runs of seed 0 are those of `make`
    scratch = trainer.finetune("none", seed, f"finetune-scratch-mean{end}", "--head", "mean")
    pretrained, top1 = {}, {}
    for method in METHODS:
        pretrained[method] = trainer.pretrain(method, seed, f"pretrain-{method}{end}")
        run = trainer.finetune(
            pretrained[method], seed, f"finetune-{method}-mean{end}", "--head", "mean"
        )
        top1[f"pretrained by {method}"] = trainer.top1(run)
    main = METHODS[0]
    cross = trainer.finetune(pretrained[main], seed, f"finetune-{main}-mca{end}", "--head", "mca")
    elsewhere = Trainer(with_random_boxes(layout, seed), RECIPES / "toy.toml")
    weights = str((layout.runs / pretrained[main]).resolve())
    random = elsewhere.finetune(weights, seed, f"finetune-{main}-mca{end}", "--head", "mca")
    return {
        **top1,
        "from random weights": trainer.top1(scratch),
        "cross attention": trainer.top1(cross),
        "cross attention, random boxes": elsewhere.top1(random),
    }


@dataclass(frozen=True)
class Stills:
    """Data of the N clips that shows no motion.

    Attributes:
        train, test: bool [N], True for clips of the split.
        labels: int64 [N].
        frames: uint8 [N, H, W, 3], the last frame of each clip.
        features: float64 [N, numbers] by name.
    """

    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    frames: np.ndarray
    features: dict[str, np.ndarray]


def read_stills(layout: DatasetLayout) -> Stills:
    """Read the data of all clips, once for all seeds."""
    clips = read_manifest(layout.root / "annotations" / "manifest.csv")
    frames = [last_frame(layout.videos / clip.video) for clip in tqdm(clips, "decode")]
    return Stills(
        train=np.array([clip.split == "train" for clip in clips]),
        test=np.array([clip.split == "test" for clip in clips]),
        labels=np.array([clip.label for clip in clips]),
        frames=np.stack(frames),
        features={
            "object's last box": last_boxes(layout, clips),
            "camera of all frames": camera_features(layout, clips),
        },
    )


def guessed(stills: Stills, seed: int, epochs: int) -> dict[str, float]:
    """Test top-1 without motion, in percent."""
    train, test, labels = stills.train, stills.test, stills.labels
    network = fit_network(stills.frames[train], labels[train], epochs, seed)
    correct = predict(network, stills.frames[test]) == labels[test]
    top1 = {"last frame": 100 * float(correct.mean())}
    for name, features in stills.features.items():
        trees = HistGradientBoostingClassifier(random_state=seed)
        trees.fit(features[train], labels[train])
        top1[name] = 100 * trees.score(features[test], labels[test])
    return top1


def last_frame(video: Path) -> np.ndarray:
    """The last frame of a video, RGB uint8[H,W,3]."""
    with av.open(str(video)) as container:
        container.streams.video[0].thread_count = 1  # starting threads takes longer than decoding
        for frame in container.decode(video=0):
            last = frame
    return last.to_ndarray(format="rgb24")


def last_boxes(layout: DatasetLayout, clips: list[Clip]) -> np.ndarray:
    """True box of the object in the last frame, float64 [N, 4], in pixels; NaN if it is not
    visible."""
    rows = []
    for clip in clips:
        path = layout.root / "truth" / "boxes" / f"{clip.clip_id}.boxes.csv"
        rows.append(np.genfromtxt(path, delimiter=",", skip_header=1)[-1, 1:])
    return np.stack(rows)


def camera_features(layout: DatasetLayout, clips: list[Clip]) -> np.ndarray:
    """Rotation, zoom and shift of the true camera in each frame, float64[N, frames * 4]."""
    record = layout.root / "toy.json"
    try:
        seed = json.loads(record.read_text())["options"]["seed"]
    except FileNotFoundError:
        raise InputError(
            "not-finished", f"no toy dataset in {layout.root}; make one with `make toy`"
        ) from None
    cameras = np.stack([make_scene(seed, index).camera for index in range(len(clips))])
    return cameras[:, :, [0, 1, 0, 1], [0, 0, 2, 2]].reshape(len(clips), NUM_FRAMES * 4)


def fit_network(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> nn.Module:
    """Fit the last-frame network on uint8[N,H,W,3], with shifts and with flips that swap the
    label."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = make_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    num_steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, num_steps)
    for _ in tqdm(range(epochs), "last-frame network", unit="epoch"):
        for batch in np.array_split(rng.permutation(len(images)), len(images) // BATCH):
            examples = [augmented(images[i], int(labels[i]), rng) for i in batch]
            views = np.stack([view for view, _ in examples])
            targets = torch.tensor([label for _, label in examples])
            loss = F.cross_entropy(network(to_input(views)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def augmented(image: np.ndarray, label: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Flip an image uint8 [H, W, 3] at random, shift it, and change the label as the flip does."""
    assert CLASSES.flip_x is not None and CLASSES.flip_y is not None
    if rng.random() < 0.5:
        image, label = image[:, ::-1], CLASSES.flip_x[label]
    if rng.random() < 0.5:
        image, label = image[::-1], CLASSES.flip_y[label]
    rows, columns = np.clip(np.arange(SIZE) + rng.integers(-SHIFT, SHIFT + 1, (2, 1)), 0, SIZE - 1)
    return image[rows][:, columns], label


def make_network() -> nn.Module:
    """Four convolutions with stride 2, and a linear layer on all positions."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 96, 128):
        layers += [
            nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    cells = (SIZE // 16) ** 2
    layers += [nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels * cells, NUM_CLASSES)]
    return nn.Sequential(*layers)


def predict(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """Class numbers int64 [N] of images uint8 [N, H, W, 3]."""
    with torch.no_grad():
        scores = [
            network(to_input(part)) for part in np.array_split(images, len(images) // BATCH + 1)
        ]
    return torch.cat(scores).argmax(dim=1).numpy()


def to_input(images: np.ndarray) -> torch.Tensor:
    """Convert uint8 [N, H, W, 3] to float32 [N, 3, H, W], about -2..2."""
    return (torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() - 110) / 60


if __name__ == "__main__":
    main()
