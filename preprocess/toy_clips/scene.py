"""Defines the motion in a toy clip: camera, objects, and the classes.

Coordinates: the *scene* is a plane, measured in pixels of the frame at zoom 1, with its origin in
the middle of the canvas. The *frame* has its origin in the top left corner, with pixel centres at
i + 0.5. All motions are similarity transforms, stored as 3x3 matrices for columns (x, y, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from shared.manifest import ClassList
from shared.randomness import counter_generator

SIZE = 64  # px, height and width of a frame
NUM_FRAMES = 16
FRAMES_PER_SECOND = 12

CLASSES = ClassList(
    label=["left", "right", "up", "down", "approaching", "receding", "turning", "swinging"],
    flip_x=[1, 0, 2, 3, 4, 5, 6, 7],
    flip_y=[0, 1, 3, 2, 4, 5, 6, 7],
    flip_time=[1, 0, 3, 2, 5, 4, 6, 7],
)
# Direction of travel in the frame, radians from the x axis towards the y axis (down).
TRAVEL = {"left": math.pi, "right": 0.0, "up": -math.pi / 2, "down": math.pi / 2}

# The object's own motion, relative to the scene.
TRAVEL_SHARE = (0.45, 0.65)  # of the frame
TRAVEL_TILT = math.radians(15)  # at most, off the axis
SCALE = (2.0, 2.8)
TURN = (math.radians(120), math.radians(220))
SWING_ANGLE = (math.radians(25), math.radians(45))  # amplitude
SWING_ARM = (0.35, 0.6)  # of the frame, from the pivot to the object
SWING_CYCLES = (1.0, 1.5)  # in a clip

RADIUS = (5.5, 18.0)  # px at zoom 1, half the length of an object
BEYOND = 0.35  # of that radius: how far an object's middle may leave the frame
NUM_PLACES = 256  # tried for an object
SECOND_OBJECT_SHARE = 0.25  # of the clips
NUM_DISTRACTORS = (1, 3)

# The camera's motion over the clip, the same for every label.
PAN = (0.05, 0.2)  # of the frame
ZOOM = 1.2  # at most, in or out
ROLL = math.radians(6)  # at most
SHAKE = 0.5  # px, standard deviation a frame


@dataclass(frozen=True)
class Scene:
    """The geometry of a clip, without textures. T = NUM_FRAMES, M movers, D distractors.

    Attributes:
        label: class number.
        camera: float64[T,3,3], scene -> frame.
        movers: float64[M,T,3,3], the object's unit square (-1..1) -> scene.
        distractors: float64[D,3,3], the same for objects that do not move.
    """

    label: int
    camera: np.ndarray
    movers: np.ndarray
    distractors: np.ndarray

    def to_frame(self) -> np.ndarray:
        """float64[D+M,T,3,3]: unit square -> frame, in drawing order from back to front."""
        still = np.repeat(self.distractors[:, None], NUM_FRAMES, axis=1)
        return self.camera @ np.concatenate([still, self.movers])


def make_scene(seed: int, index: int) -> Scene:
    """Make the scene of clip `index`.

    The camera has its own random generator, so it does not depend on the label.
    """
    label = index % len(CLASSES.label)
    camera = camera_path(counter_generator(seed, "toy", index, "camera"))
    rng = counter_generator(seed, "toy", index, "motion")
    motion = object_motion(CLASSES.label[label], rng)
    num_movers = 2 if rng.random() < SECOND_OBJECT_SHARE else 1
    movers: list[np.ndarray] = []
    for _ in range(num_movers):
        placed = _place(motion, camera, movers, rng)
        if placed is not None:
            movers.append(placed)
    num_distractors = rng.integers(NUM_DISTRACTORS[0], NUM_DISTRACTORS[1], endpoint=True)
    distractors = [_stand(camera, rng) for _ in range(num_distractors)]
    return Scene(label, camera, np.stack(movers), np.stack(distractors))


def camera_path(rng: np.random.Generator) -> np.ndarray:
    """Pan, zoom, roll and shake: float64[T,3,3], scene -> frame."""
    progress = np.linspace(-0.5, 0.5, NUM_FRAMES)  # the scene's middle is in view at half time
    heading = rng.uniform(0, 2 * math.pi)
    length = SIZE * rng.uniform(*PAN)
    shake = rng.normal(0, SHAKE, (NUM_FRAMES, 2))
    x = length * math.cos(heading) * progress + shake[:, 0]
    y = length * math.sin(heading) * progress + shake[:, 1]
    zoom = np.exp(math.log(ZOOM) * rng.uniform(-1, 1) * 2 * progress)
    roll = ROLL * rng.uniform(-1, 1) * 2 * progress
    to_middle = similarity(zoom, roll, np.zeros(NUM_FRAMES), np.zeros(NUM_FRAMES))
    shifted = similarity(np.ones(NUM_FRAMES), np.zeros(NUM_FRAMES), x, y)
    middle = similarity(1.0, 0.0, SIZE / 2, SIZE / 2)
    return middle @ to_middle @ shifted


def object_motion(name: str, rng: np.random.Generator) -> np.ndarray:
    """The motion of an object of a class around its place, with scale and turn: float64[T,3,3].

    A single frame shows little of the class: objects of every class have the sizes that approaching
    and receding objects have at their ends, and any orientation.
    """
    time = np.linspace(0, 1, NUM_FRAMES)
    eased = _eased(rng)
    factor = rng.uniform(*SCALE)
    small = math.exp(rng.uniform(math.log(RADIUS[0]), math.log(RADIUS[1] / factor)))
    radius = np.full(NUM_FRAMES, small if rng.random() < 0.5 else small * factor)
    angle = np.full(NUM_FRAMES, rng.uniform(0, 2 * math.pi))
    x = y = np.zeros(NUM_FRAMES)
    if name in TRAVEL:
        heading = TRAVEL[name] + rng.uniform(-TRAVEL_TILT, TRAVEL_TILT)
        length = SIZE * rng.uniform(*TRAVEL_SHARE)
        x, y = length * math.cos(heading) * eased, length * math.sin(heading) * eased
    elif name == "approaching":
        radius = small * factor**eased
    elif name == "receding":
        radius = small * factor ** (1 - eased)
    elif name == "turning":
        angle = angle + rng.choice((-1, 1)) * rng.uniform(*TURN) * eased
    elif name == "swinging":
        swing = rng.uniform(*SWING_ANGLE) * np.sin(
            2 * math.pi * (rng.uniform(*SWING_CYCLES) * time + rng.random())
        )
        arm, rest = SIZE * rng.uniform(*SWING_ARM), rng.uniform(0, 2 * math.pi)
        x, y = arm * np.cos(rest + swing), arm * np.sin(rest + swing)
        angle = angle + swing
    else:
        raise AssertionError(name)
    return similarity(radius, angle, x, y)


def _eased(rng: np.random.Generator) -> np.ndarray:
    """Progress from 0 to 1 at a slightly uneven speed: float64[T]."""
    time = np.linspace(0, 1, NUM_FRAMES)
    wobble = np.sin(2 * math.pi * time + rng.uniform(0, 2 * math.pi))
    progress = time + rng.uniform(0, 0.5) / (2 * math.pi) * wobble
    return (progress - progress[0]) / (progress[-1] - progress[0])


def similarity(scale: ArrayLike, angle: ArrayLike, x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Scale, turn by `angle` radians, then shift by (x, y): broadcast to float64[...,3,3]."""
    scale, angle, x, y = np.broadcast_arrays(scale, angle, x, y)
    matrix = np.zeros((*scale.shape, 3, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = scale * np.cos(angle)
    matrix[..., 1, 0] = scale * np.sin(angle)
    matrix[..., 0, 1] = -matrix[..., 1, 0]
    matrix[..., 0, 2], matrix[..., 1, 2], matrix[..., 2, 2] = x, y, 1
    return matrix


def _place(
    motion: np.ndarray, camera: np.ndarray, others: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray | None:
    """Move a motion to a random place where the object stays in view: float64[T,3,3].

    The centre of the object may leave the frame by a share of its size. Otherwise a travelling
    object would always end at the side that it travels to. If no place keeps the object in view
    (it may travel far against the camera), the place that loses least is taken. The result is None
    if there are other objects, and at every place the object leaves the view or hits one of them.
    """
    places = rng.uniform(-1.5 * SIZE, 1.5 * SIZE, (NUM_PLACES, 1, 2))
    paths = places + motion[:, :2, 2]  # [places, T, 2], scene
    seen = np.einsum("tij,ntj->nti", camera[:, :2, :2], paths) + camera[:, :2, 2]
    beyond = np.maximum(-seen, seen - SIZE).max(axis=-1) - BEYOND * _radius(motion)
    lost = beyond.max(axis=-1).clip(min=0)
    for other in others:
        apart = np.linalg.norm(paths - other[:, :2, 2], axis=-1).min(axis=-1)
        lost[apart < 2 * _radius(motion).max()] = np.inf
    best = np.argmin(lost)  # the first place that loses nothing, which is a random one
    if others and lost[best] > 0:
        return None
    return similarity(1.0, 0.0, *places[best, 0]) @ motion


def _stand(camera: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random place that is in view at half time, with random size and turn: float64[3,3]."""
    x, y, _ = np.linalg.inv(camera[NUM_FRAMES // 2]) @ (*rng.uniform(0, SIZE, 2), 1)
    radius = math.exp(rng.uniform(math.log(RADIUS[0]), math.log(RADIUS[1])))
    return similarity(radius, rng.uniform(0, 2 * math.pi), x, y)


def _radius(motion: np.ndarray) -> np.ndarray:
    """Scale of similarity transforms, float64[...]."""
    return np.hypot(motion[..., 0, 0], motion[..., 1, 0])
