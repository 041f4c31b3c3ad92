"""The toy dataset's main figure, and what it must be seen beside.

    make                                          # makes the dataset and the main figure
    python -m benchmarks.toy_baselines --out out --seeds 0,1,2

prints the test top-1 of

    the main figure           pretrained with motion boxes, then finetuned
    from random weights       the same finetuning without pretraining
    cross attention           finetuning with the motion-focused head on the same pretraining
    ... and random boxes      the same, each clip with the motion boxes of another one
    the last frame            a small convolutional network on its pixels
    the object's last box     boosted trees on the true box: as if a network found it every time
    the camera                boosted trees on the true pan, zoom, roll and shake of all frames

The last frame must stay under 35 % and the camera at chance (12.5 %), or the dataset gives its
labels away. A seed takes about 15 minutes on two cores; runs that are finished are used as they
are, so that the command can be stopped and goes on. The figures go to benchmarks/results/.
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

RESULTS = Path(__file__).parent / "results" / "toy_baselines.json"
NUM_CLASSES = len(CLASSES.label)
BATCH = 64
LEARNING_RATE = 2e-3
SHIFT = 4  # px


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="folder of all datasets; the toy dataset is read from FOLDER/toy")  # fmt: skip
@click.option("--seeds", default="0,1,2", metavar="LIST", help="of weights, order and masks")
@click.option("--epochs", type=click.IntRange(min=1), default=30, metavar="EPOCHS",
              help="of the last-frame network")  # fmt: skip
@user_errors
def main(out: Path, seeds: str, epochs: int) -> None:
    layout = DatasetLayout(out, "toy")
    if not layout.boxes.is_dir():
        raise InputError(f"no toy dataset with boxes in {layout.root}; make one with `make`")
    chosen = [int(seed) for seed in seeds.split(",")]
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
    """Write what is known after a seed."""
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
    """Test top-1 by what is trained with one seed, percent."""
    trainer = Trainer(layout)
    end = f"-seed{seed}" if seed else ""  # the runs of seed 0 are those of `make`
    pretrained = trainer.pretrain("mofo", seed, f"pretrain-mofo{end}")
    main = trainer.finetune(pretrained, seed, f"finetune-mofo-mean{end}", "--head", "mean")
    scratch = trainer.finetune("none", seed, f"finetune-scratch-mean{end}", "--head", "mean")
    cross = trainer.finetune(pretrained, seed, f"finetune-mofo-mca{end}", "--head", "mca")
    elsewhere = Trainer(with_random_boxes(layout, seed), RECIPES / "toy.toml")
    weights = str((layout.runs / pretrained).resolve())
    random = elsewhere.finetune(weights, seed, f"finetune-mofo-mca{end}", "--head", "mca")
    return {
        "pretrained and finetuned": trainer.top1(main),
        "from random weights": trainer.top1(scratch),
        "cross attention": trainer.top1(cross),
        "cross attention, random boxes": elsewhere.top1(random),
    }


@dataclass(frozen=True)
class Stills:
    """What there is of the N clips without their motion.

    Attributes:
        train, test: bool [N], which clips are of the split.
        labels: int64 [N].
        frames: uint8 [N, H, W, 3], last ones.
        features: by name float64 [N, numbers].
    """

    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    frames: np.ndarray
    features: dict[str, np.ndarray]


def read_stills(layout: DatasetLayout) -> Stills:
    """All of them, once for all seeds."""
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
    """Test top-1 without seeing motion, percent."""
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
    """True box of the object in the last frame, float64[N,4] pixels, NaN where it is out of
    view."""
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
        raise InputError(f"no toy dataset in {layout.root}; make one with `make toy`") from None
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
    """A view of uint8[H,W,3]: mirrored by chance, then shifted; the label goes with the
    mirroring."""
    assert CLASSES.flip_x is not None and CLASSES.flip_y is not None
    if rng.random() < 0.5:
        image, label = image[:, ::-1], CLASSES.flip_x[label]
    if rng.random() < 0.5:
        image, label = image[::-1], CLASSES.flip_y[label]
    rows, columns = np.clip(np.arange(SIZE) + rng.integers(-SHIFT, SHIFT + 1, (2, 1)), 0, SIZE - 1)
    return image[rows][:, columns], label


def make_network() -> nn.Module:
    """Four convolutions with stride 2, then a layer that sees where things are."""
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
    """Class numbers int64[N] for uint8[N,H,W,3]."""
    with torch.no_grad():
        scores = [
            network(to_input(part)) for part in np.array_split(images, len(images) // BATCH + 1)
        ]
    return torch.cat(scores).argmax(dim=1).numpy()


def to_input(images: np.ndarray) -> torch.Tensor:
    """uint8[N,H,W,3] -> float32[N,3,H,W], about -2..2."""
    return (torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() - 110) / 60


if __name__ == "__main__":
    main()
