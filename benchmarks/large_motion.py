"""How far does optical flow follow large motion? Error of each pair beside OpenCV's.

    python -m benchmarks.large_motion --samples ../shared/samples
    python -m benchmarks.large_motion --samples ../shared/samples --ideas

Pairs: RubberWhale, the pairs of flow/pairs in --samples, and rendered ones, in which an ellipse
moves by 0 to 80 px over a background that moves by 3 px, in frames of 320x240. Contenders: no flow
at all, OpenCV's TV-L1, OpenCV's DIS, and the presets fast and large. --ideas adds what was tried to
help fast before there was large: see `IDEAS`. Times are CPU seconds of one thread. About 5 minutes
on one core.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch

from benchmarks.flow_measures import end_point_error
from benchmarks.tvl1 import Flow, opencv, ours, tensors, timed
from benchmarks.tvl1_pairs import Pair, rubberwhale
from preprocess.tvl1_solvers import native
from preprocess.tvl1_solvers.presets import PRESETS, Preset
from shared.errors import user_errors
from shared.files import write_atomically
from shared.run_record import command_line, git_commit, versions

FAST = PRESETS["fast"]
MOTIONS = (0, 5, 10, 20, 40, 60, 80)  # px of the ellipse
WIDTH, HEIGHT, MARGIN = 320, 240, 96  # px; of the frame, and of the texture around it
UNKNOWN = 1e8  # larger components of true flow are unknown
WINDOW = 9  # px of a 0.41 times smaller picture, in which two flows are compared
UNLIKE, STRAYED, LEFT = 20.0, 2.0, 4.0
"""Cost of a pixel, grey values: of any larger difference of brightness, of flow that does not lead
back, of flow that leaves the frame. Chosen on the real pairs."""


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--samples", required=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="Folder with flow/rubberwhale and flow/pairs.")  # fmt: skip
@click.option("--ideas", is_flag=True, help="Also measure the ideas that were tried.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON to write.")
@user_errors
def main(samples: Path, ideas: bool, out: Path | None) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    contenders: dict[str, Flow] = {"zero": nothing, "opencv": opencv, "dis": dis}
    contenders |= {"fast": ours(), "large": ours("large")}
    contenders |= IDEAS if ideas else {}
    heading = " ".join(f"{name:>12}" for name in contenders)
    print(f"{'':22}{heading}   fast and large: times OpenCV's speed")
    rows = []
    for pair in [*real_pairs(samples), *rendered_pairs()]:
        assert pair.truth is not None, "pairs with true flow"
        errors, seconds = {}, {}
        for name, flow in contenders.items():
            found, seconds[name] = timed(flow, pair, 1 if name == "opencv" else 2)
            errors[name] = end_point_error(found, pair.truth, pair.valid)
        rows.append({"pair": pair.name, "error_px": errors, "seconds": seconds})
        print(
            f"{pair.name:22}"
            + " ".join(f"{error:12.3f}" for error in errors.values())
            + "".join(f"{seconds['opencv'] / seconds[name]:8.0f}" for name in ("fast", "large")),
            flush=True,
        )
    _print_summary(rows, list(contenders)[3:])
    if out is not None:
        record = {"command": command_line(), "versions": versions(), "git_commit": git_commit()}
        write_atomically(out, json.dumps(record | {"rows": rows}, indent=1).encode() + b"\n")


def _print_summary(rows: list[dict], names: list[str]) -> None:
    """Of each contender: on how many pairs it is at most 2 % above the better of OpenCV's two."""
    for name in names:
        errors = [row["error_px"] for row in rows]
        best = [min(each["opencv"], each["dis"]) for each in errors]
        ratios = np.divide([each[name] + 1e-3 for each in errors], np.add(best, 1e-3))
        speed = np.median([row["seconds"]["opencv"] / row["seconds"][name] for row in rows])
        print(
            f"{name:12} at most 1.02 times the better of OpenCV's on "
            f"{np.sum(ratios <= 1.02)} of {len(rows)} pairs, geometric mean "
            f"{np.exp(np.mean(np.log(ratios))):.2f}, median speed {speed:.0f} times TV-L1's"
        )


# --------------------------------------------------------------------------------------------------
# Pairs


def real_pairs(samples: Path) -> list[Pair]:
    pairs = [rubberwhale(samples)]
    for folder in sorted((samples / "flow" / "pairs").iterdir()):
        first, second = (
            np.asarray(cv2.imread(str(folder / f"frame{i}.png"), cv2.IMREAD_GRAYSCALE))
            for i in (0, 1)
        )
        truth = cv2.readOpticalFlow(str(folder / "flow.flo")).transpose(2, 0, 1)
        known = np.all(np.abs(truth) < UNKNOWN, axis=0)
        pairs.append(Pair(folder.name, first, second, truth, known))
    return pairs


def rendered_pairs() -> list[Pair]:
    return [rendered(seed, motion) for seed in (0, 1) for motion in MOTIONS]


def rendered(seed: int, motion: float) -> Pair:
    """An ellipse that moves by `motion` px, over a background that moves by 3 px.

    Pixels are valid if they can be seen in both frames.
    """
    rng = np.random.default_rng(seed)
    textures = [_texture(rng) for _ in range(2)]
    angle, other = rng.uniform(0, 2 * np.pi, 2)
    far, near = (
        length * np.array([np.cos(a), np.sin(a)]) for length, a in ((3.0, other), (motion, angle))
    )
    centre = np.array([WIDTH, HEIGHT]) / 2 - near / 2
    axes = rng.uniform(25, 55, 2)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)

    def covered(moved: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        across, down = (x - centre[0] - moved[0]) / axes[0], (y - centre[1] - moved[1]) / axes[1]
        return across**2 + down**2 <= 1

    frames = []
    for shift in (0.0, 1.0):
        background, ellipse = (
            _moved(texture, shift * by) for texture, by in zip(textures, (far, near), strict=True)
        )
        picture = np.where(covered(shift * near, x, y), ellipse, background)
        frames.append(np.clip(picture + 0.5, 0, 255).astype(np.uint8))
    front = covered(np.zeros(2), x, y)
    truth = np.where(front, near[:, None, None], far[:, None, None])
    to_x, to_y = x + truth[0], y + truth[1]
    seen = (to_x >= 0) & (to_x <= WIDTH - 1) & (to_y >= 0) & (to_y <= HEIGHT - 1)
    seen &= front | ~covered(near, to_x, to_y)
    first, second = frames
    return Pair(f"ellipse {motion} px, {seed}", first, second, truth.astype(np.float32), seen)


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Noise of five octaves, float32, with a margin around the frame."""
    size = (WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN)
    total = np.zeros(size[::-1], np.float32)
    for octave in range(5):
        cells = (size[1] >> (6 - octave)) + 2, (size[0] >> (6 - octave)) + 2
        noise = rng.uniform(-1, 1, cells).astype(np.float32)
        total += 0.7**octave * cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    return 128 + 45 * total + rng.uniform(-30, 30)


def _moved(texture: np.ndarray, by: np.ndarray) -> np.ndarray:
    shift = np.array([[1, 0, by[0] - MARGIN], [0, 1, by[1] - MARGIN]], np.float64)
    return cv2.warpAffine(
        texture, shift, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


# --------------------------------------------------------------------------------------------------
# Contenders


def nothing(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(each, np.float32) for each in (first, second)])


def dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return solver.calc(first, second, np.empty(0, np.float32)).transpose(2, 0, 1)


def varied(**changes: Any) -> Flow:
    """The preset fast with other numbers."""
    preset = replace(FAST, **changes)
    return lambda first, second: _solve(first, second, preset)


def patch_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The patch search of DIS alone, at half of the size."""
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    solver.setVariationalRefinementIterations(0)
    solver.setFinestScale(1)
    solver.setPatchStride(4)
    solver.setGradientDescentIterations(25)
    return solver.calc(first, second, np.empty(0, np.float32)).transpose(2, 0, 1)


def from_patches(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fast, but it starts at 0.26 of the size, from the patch search."""
    return _solve(first, second, replace(FAST, max_levels=7), patch_flow(first, second))


def chosen(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """For each pixel the better of two flows at 0.41 of the size: one that starts from nothing at
    0.21, which small motion likes, and one from the patch search; then fast from there.

    Better is what differs less in brightness and leads back, over a window.
    """
    one, other = _reduced(first), _reduced(second)
    both = ((one, other), (other, one))
    found = [
        [
            _solve(a, b, replace(FAST, max_levels=4, presmooth=0.0)),
            _solve(a, b, replace(FAST, max_levels=3, presmooth=0.0), _resized(patch, a.shape)),
        ]
        for (a, b), patch in zip(
            both, (patch_flow(first, second), patch_flow(second, first)), strict=True
        )
    ]
    costs = [_cost(one, other, there, back) for there, back in zip(*found, strict=True)]
    best = np.where(costs[1] < costs[0], found[0][1], found[0][0])
    return _solve(first, second, replace(FAST, max_levels=5), _resized(best, first.shape))


IDEAS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "8 levels": varied(max_levels=8),
    "5 levels": varied(max_levels=5),
    "median 5": varied(median=5, rounds=3, iterations=4, iterations_fine=7),
    "dual 0": varied(dual_kept=0.0),
    "weight .08": varied(attachment=0.08),
    "weight .3": varied(attachment=0.3),
    "halves": varied(scale_step=0.5, warps=5, pyramid_blur=0.6),
    "smooth 1": varied(presmooth=1.0),
    "patches": from_patches,
    "chosen": chosen,
}
"""What was tried, by column. All but the last two are the preset fast with other numbers."""


def _solve(
    first: np.ndarray, second: np.ndarray, preset: Preset, start: np.ndarray | None = None
) -> np.ndarray:
    one, other = (frame.float() for frame in tensors(first, second))
    initial = None if start is None else torch.from_numpy(np.ascontiguousarray(start))[None]
    return native.solve(one, other, initial, preset)[0].numpy()


def _reduced(frame: np.ndarray) -> np.ndarray:
    size = (round(0.41 * frame.shape[1]), round(0.41 * frame.shape[0]))
    return cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _resized(flow: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    scale = shape[1] / flow.shape[2]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    planes = [cv2.resize(plane, shape[::-1], interpolation=how) * scale for plane in flow]
    return np.stack(planes).astype(np.float32)


def _cost(first: np.ndarray, second: np.ndarray, there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """float32 [H, W]: how badly a flow fits, from brightness and from the flow that leads back."""
    height, width = first.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    to = x + there[0], y + there[1]
    second_there, back_u, back_v = (
        cv2.remap(each, *to, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for each in (second, *back)
    )
    cost = np.minimum(np.abs(first - second_there), UNLIKE)
    cost += STRAYED * np.minimum(np.hypot(there[0] + back_u, there[1] + back_v), 1.0)
    left = (to[0] < 0) | (to[1] < 0) | (to[0] > width - 1) | (to[1] > height - 1)
    return cv2.blur(np.where(left, np.float32(LEFT), cost), (WINDOW, WINDOW))


if __name__ == "__main__":
    main()
