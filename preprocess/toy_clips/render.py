"""Renders the frames of a toy scene, with the exact boxes and flow of its objects."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.toy_clips.scene import NUM_FRAMES, SIZE, Scene, similarity
from shared.randomness import counter_generator

OVERSAMPLING = 2  # samples a pixel, along each axis
CANVAS = 136  # px, side of the background: what pan, zoom and roll can bring into view
SPRITE = 64  # texels, side of an object's picture

# Outlines in the unit square, pointing to the right. In two tones, none looks the same after any
# turn but a full one.
OUTLINES = (
    ((-1.0, -0.45), (1.0, -0.45), (1.0, 0.45), (-1.0, 0.45)),  # bar
    ((-0.8, -0.75), (1.0, 0.0), (-0.8, 0.75)),  # triangle
    ((-1.0, -0.3), (0.1, -0.3), (0.1, -0.7), (1.0, 0.0), (0.1, 0.7), (0.1, 0.3), (-1.0, 0.3)),
    ((-0.9, -0.7), (-0.2, -0.7), (-0.2, 0.1), (0.9, 0.1), (0.9, 0.7), (-0.9, 0.7)),  # L
    tuple(
        (math.cos(turn) * (1.0 if math.cos(turn) > 0 else 0.7), 0.6 * math.sin(turn))
        for turn in np.linspace(0, 2 * math.pi, 24, endpoint=False)
    ),  # egg
)
REACH = max(math.hypot(x, y) for outline in OUTLINES for x, y in outline)


@dataclass(frozen=True)
class Looks:
    """The textures of a scene; S = SPRITE, C = CANVAS.

    Attributes:
        background: float32[C,C,3], 0..255.
        sprites: float32[D+M,S,S,4], RGB 0..255 multiplied by alpha, then alpha 0..1; in the order
            of `Scene.to_frame`.
    """

    background: np.ndarray
    sprites: np.ndarray


def make_looks(seed: int, index: int, scene: Scene) -> Looks:
    """Make the textures of clip `index`, which do not depend on the label."""
    rng = counter_generator(seed, "toy", index, "looks")
    background = _background(rng)
    sprites = []
    for _ in scene.distractors:
        vivid = rng.random() < 0.5
        tone = _colour(rng.random(), rng.uniform(0.7, 1.0) if vivid else rng.uniform(0.1, 0.3), rng)
        tone = tone if vivid else 0.6 * tone
        sprites.append(_sprite(tone, tone, rng))
    for _ in scene.movers:
        warm, cool = rng.uniform(-0.06, 0.16), rng.uniform(0.47, 0.72)
        front = _colour(warm, rng.uniform(0.7, 1.0), rng)
        behind = _colour(cool, rng.uniform(0.7, 1.0), rng)
        sprites.append(_sprite(front, behind, rng))
    return Looks(background, np.stack(sprites))


def render(scene: Scene, looks: Looks) -> tuple[np.ndarray, np.ndarray]:
    """Render all frames.

    Returns:
        uint8[T,H,W,3] RGB, and float32[T,4]: the box around all moving objects, x1 y1 x2 y2 in
        pixels, half-open, clipped to the frame; NaN if none is in view.
    """
    frames = np.empty((NUM_FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    boxes = np.full((NUM_FRAMES, 4), np.nan, dtype=np.float32)
    transforms = scene.to_frame()
    to_sprite = np.linalg.inv(_sprite_to_frame(transforms))
    to_canvas = similarity(1.0, 0.0, CANVAS / 2, CANVAS / 2) @ np.linalg.inv(scene.camera)
    for t in range(NUM_FRAMES):
        picture = cv2.split(_warp(looks.background, to_canvas[t], 0, 0, SIZE, SIZE))
        corners = []
        for layer, sprite in enumerate(looks.sprites):
            drawn = _draw(picture, sprite, transforms[layer, t], to_sprite[layer, t])
            if drawn is not None and layer >= len(scene.distractors):
                corners.append(drawn)
        small = cv2.resize(cv2.merge(picture), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        frames[t] = np.clip(small + 0.5, 0, 255)
        if corners:
            x1, y1, _, _ = np.min(corners, axis=0)
            _, _, x2, y2 = np.max(corners, axis=0)
            boxes[t] = x1, y1, x2, y2
    return frames, boxes


def true_flow(scene: Scene, looks: Looks, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the motion of each pixel from frame t to t+1, camera motion included.

    Returns:
        float32[2,H,W], u (right) then v (down) in pixels, and bool[H,W]: False if the point leaves
        the frame or is covered in the next frame, or if the pixel mixes two layers.
    """
    transforms = scene.to_frame()
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    here = np.stack([x, y, np.ones_like(x)])  # [3,H,W]
    on_top, pure = _top_layer(looks, transforms[:, t], here)
    there = np.empty_like(here)
    for layer in range(-1, len(transforms)):  # -1: the background
        path = scene.camera if layer < 0 else transforms[layer]
        moved = np.einsum("ij,jhw->ihw", path[t + 1] @ np.linalg.inv(path[t]), here)
        there[:, on_top == layer] = moved[:, on_top == layer]
    top_there, pure_there = _top_layer(looks, transforms[:, t + 1], there)
    inside = ((there[:2] >= 0.5) & (there[:2] <= SIZE - 0.5)).all(axis=0)
    valid = inside & pure & pure_there & (on_top == top_there)
    return (there - here)[:2].astype(np.float32), valid


def _top_layer(
    looks: Looks, transforms: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which layer is seen at points float64[3,H,W] of a frame: int64[H,W] (-1 = background), and
    bool[H,W] whether a pixel around the point has nothing of a layer above or below."""
    top = np.full(points.shape[1:], -1)
    pure = np.ones(points.shape[1:], dtype=bool)
    for layer, to_sprite in enumerate(np.linalg.inv(_sprite_to_frame(transforms))):
        alpha = looks.sprites[layer, ..., 3]
        around = []
        for dx in (-0.5, 0.0, 0.5):
            for dy in (-0.5, 0.0, 0.5):
                shifted = points + np.array([dx, dy, 0.0])[:, None, None]
                x, y, _ = np.einsum("ij,jhw->ihw", to_sprite, shifted)
                texels = ((x - 0.5).astype(np.float32), (y - 0.5).astype(np.float32))
                around.append(cv2.remap(alpha, *texels, cv2.INTER_LINEAR, borderValue=0))
        covered = np.stack(around)
        full, empty = covered.min(axis=0) > 0.98, covered.max(axis=0) < 0.02
        top[full] = layer
        pure = full | (pure & empty)
    return top, pure


def _draw(
    picture: Sequence[np.ndarray], sprite: np.ndarray, transform: np.ndarray, to_sprite: np.ndarray
) -> tuple[float, float, float, float] | None:
    """Draw a sprite on the channels of the oversampled image, in place.

    Returns its box (x1, y1, x2, y2) in frame pixels, or None if it is out of view.
    """
    reach = REACH * math.hypot(transform[0, 0], transform[1, 0]) + 1
    x, y = transform[:2, 2]
    x1, y1 = max(math.floor(x - reach), 0), max(math.floor(y - reach), 0)
    x2, y2 = min(math.ceil(x + reach), SIZE), min(math.ceil(y + reach), SIZE)
    if x1 >= x2 or y1 >= y2:
        return None
    *planes, alpha = cv2.split(_warp(sprite, to_sprite, x1, y1, x2, y2))
    uncovered = 1 - alpha
    for channel, plane in zip(picture, planes, strict=True):
        region = channel[
            y1 * OVERSAMPLING : y2 * OVERSAMPLING, x1 * OVERSAMPLING : x2 * OVERSAMPLING
        ]
        region *= uncovered
        region += plane
    solid = alpha > 0.5
    columns, rows = np.flatnonzero(solid.any(axis=0)), np.flatnonzero(solid.any(axis=1))
    if not len(columns):
        return None
    left, right = columns[0] / OVERSAMPLING, (columns[-1] + 1) / OVERSAMPLING
    top, bottom = rows[0] / OVERSAMPLING, (rows[-1] + 1) / OVERSAMPLING
    return x1 + left, y1 + top, x1 + right, y1 + bottom


def _warp(
    image: np.ndarray, to_image: np.ndarray, x1: int, y1: int, x2: int, y2: int
) -> np.ndarray:
    """Sample an image on the oversampled grid of frame pixels x1:x2, y1:y2; black outside.

    `to_image` maps frame coordinates to texels. OpenCV counts both from the centre of the first.
    """
    half = 0.5 / OVERSAMPLING
    matrix = to_image[:2].copy()
    matrix[:, 2] += to_image[:2, :2] @ (x1 + half, y1 + half) - 0.5
    matrix[:, :2] /= OVERSAMPLING
    return cv2.warpAffine(
        image,
        matrix,
        ((x2 - x1) * OVERSAMPLING, (y2 - y1) * OVERSAMPLING),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )


def _sprite_to_frame(transform: np.ndarray) -> np.ndarray:
    """Texels of a sprite -> frame, for an object whose unit square goes through `transform`."""
    return transform @ similarity(2 / SPRITE, 0.0, -1.0, -1.0)


def _sprite(tone: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The texture of an object: float32[S,S,4], `tone` at its front and `other` at its back."""
    fine = 4  # for a soft edge
    points = np.array(OUTLINES[rng.integers(len(OUTLINES))])
    corners = np.round((points + 1) / 2 * SPRITE * fine - 0.5).astype(np.int32)
    mask = np.zeros((SPRITE * fine, SPRITE * fine), dtype=np.uint8)
    cv2.fillPoly(mask, [corners], 255)
    alpha = cv2.resize(mask, (SPRITE, SPRITE), interpolation=cv2.INTER_AREA)[..., None] / 255.0
    behind = np.arange(SPRITE) < SPRITE * rng.uniform(0.4, 0.6)
    colour = np.where(behind[None, :, None], other, tone)
    stripes = _grating(SPRITE, SPRITE * rng.uniform(0.3, 0.6), rng.uniform(0, 2 * math.pi), rng)
    colour = colour * (1 + 0.15 * stripes + 0.1 * _noise(SPRITE, SPRITE / 6, rng))[..., None]
    return np.concatenate([colour.clip(0, 255) * alpha, alpha], axis=2).astype(np.float32)


def _colour(hue: float, saturation: float, rng: np.random.Generator) -> np.ndarray:
    """RGB, 0..255."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, rng.uniform(0.75, 1.0)))


def _background(rng: np.random.Generator) -> np.ndarray:
    """The scene behind all objects: float32[C,C,3].

    Most of the variation is light that falls off slowly across the scene, so a masked patch can be
    predicted from any visible patch. Finer texture lets optical flow be measured.
    """
    grey = rng.uniform(80, 120) + rng.uniform(-5, 5, 3)
    light = _grating(CANVAS, rng.uniform(160, 240), rng.uniform(-0.5, 0.5), rng)
    pattern = 48 * light + 7 * _noise(CANVAS, 20, rng) + 4 * _noise(CANVAS, 7, rng)
    return (grey + pattern[..., None]).astype(np.float32)


def _grating(side: int, wavelength: float, phase: float, rng: np.random.Generator) -> np.ndarray:
    """A plane wave in any direction, float64[side,side], -1..1; `phase` radians in the middle."""
    heading = rng.uniform(0, 2 * math.pi)
    away = 2 * math.pi / wavelength * (np.arange(side) - side / 2)
    return np.sin(math.cos(heading) * away + math.sin(heading) * away[:, None] + phase)


def _noise(side: int, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Random heights on a grid `spacing` apart, cubic in between: float32[side,side]."""
    knots = math.ceil(side / spacing) + 1
    heights = rng.normal(size=(knots, knots)).astype(np.float32)
    return cv2.resize(heights, (side, side), interpolation=cv2.INTER_CUBIC)
