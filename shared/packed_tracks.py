"""The packed coding of tracks: a cosine transform along each track, rounded to 8 bits.

HOG hardly changes along a track, neighbouring orientations are alike, and displacements are alike
from step to step. The orthonormal DCT-II of a track therefore has few large coefficients. The
targets of MME are divided by the deviation within a patch, so that what is coarse must be relative:
each track has a gain, and its coefficients are whole multiples of `gain * step`. Coefficients are
stored plane by plane, which gzip compresses further.

A track that ends early is continued by its last step before it is transformed.

Letters: T first frames of tracks, G grid points, L steps, C = L * channels coefficients.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from shared.tracks import NUM_BINS

# Floors are about the noise of flow and of compressed video. The steps keep the tracks of a clip of
# Something-Something V2 below 300 kB (docs/results.md).
MOVE_STEP, MOVE_FLOOR = 0.45, 0.05  # gains, pixels
HOG_STEP, HOG_FLOOR = 0.7, 0.1  # gains, grey values per pixel
DEAD_ZONE = 0.6  # coefficients up to this many steps become 0, and others move towards 0 by 0.1
GAINS_PER_OCTAVE = 2
LARGEST = 127  # of a stored number


@dataclass(frozen=True)
class Coding:
    """How the numbers of one kind are coded.

    Attributes:
        channels: numbers of each step.
        step: distance of two values of a coefficient, in gains.
        floor: the smallest gain, in units of the numbers.
        centred: whether the gain is a standard deviation (True) or a root mean square.
        least: the smallest number that can occur; smaller ones are raised to it.
    """

    channels: int
    step: float
    floor: float
    centred: bool
    least: float = -np.inf

    def num_values(self, length: int) -> int:
        """Stored numbers of a track: its gain and its coefficients."""
        return 1 + length * self.channels

    def pack(self, numbers: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
        """Code the numbers of tracks.

        Args:
            numbers: float32 [T, G, L, channels]; those after the end of a track are not used.
            num_steps: uint8 [T, G].

        Returns:
            int8 [T, 1 + C, G]: 2 * log2(gain / floor), then coefficients, by step and channel.
        """
        times, points, length, _ = numbers.shape
        flat = _continued(numbers, num_steps).reshape(times, points, -1)
        spread = flat.std(axis=2) if self.centred else np.sqrt(np.square(flat).mean(axis=2))
        coefficients = flat @ _basis(length, self.channels)
        # No coefficient may exceed 127 steps. Histograms that are nearly even could.
        least = np.abs(coefficients).max(axis=2, initial=0) / (LARGEST * self.step)
        octaves = np.maximum(
            np.rint(GAINS_PER_OCTAVE * np.log2((spread + self.floor) / self.floor)),
            np.ceil(GAINS_PER_OCTAVE * np.log2(np.maximum(least / self.floor, 1e-9))),
        )
        gains = self.floor * np.exp2(octaves / GAINS_PER_OCTAVE)
        scaled = coefficients / (gains * self.step)[..., None]
        rounded = np.sign(scaled) * np.floor(np.abs(scaled) + (1 - DEAD_ZONE))
        stored = np.concatenate([octaves[..., None], rounded], axis=2)
        return np.ascontiguousarray(np.moveaxis(stored.astype(np.int8), 2, 1))

    def unpack(self, stored: np.ndarray, num_steps: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The inverse of `pack` for some of the points, but for rounding.

        Args:
            stored: int8 [T, 1 + C, G].
            num_steps: uint8 [T, P].
            points: int64 [P].

        Returns:
            float32 [T, P, L, channels]; 0 after the end of a track.
        """
        length = (stored.shape[1] - 1) // self.channels
        basis = _basis(length, self.channels).T
        unit = np.float32(self.floor * self.step)
        numbers = np.empty((len(stored), len(points), length * self.channels), np.float32)
        for planes, result in zip(stored, numbers, strict=True):  # each fits into a CPU's cache
            values = planes.take(points, axis=1).astype(np.float32)
            np.matmul(values[1:].T, basis, out=result)
            result *= (np.exp2(values[0] / GAINS_PER_OCTAVE) * unit)[:, None]
            if self.least > -np.inf:
                np.maximum(result, np.float32(self.least), out=result)
        numbers = numbers.reshape(*numbers.shape[:2], length, self.channels)
        short = np.flatnonzero(num_steps.min(axis=1, initial=length) < length)
        for time in short:
            numbers[time] *= (np.arange(length) < num_steps[time, :, None])[..., None]
        return numbers


def _continued(numbers: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
    """Tracks whose last step is repeated up to L; a track without steps is left as it is."""
    length = numbers.shape[2]
    if num_steps.min(initial=length) >= length:
        return numbers
    last = np.maximum(num_steps.astype(np.int64) - 1, 0)
    steps = np.minimum(np.arange(length), last[..., None])
    return np.take_along_axis(numbers, steps[..., None], axis=2)


@functools.lru_cache(maxsize=8)
def _basis(length: int, channels: int) -> np.ndarray:
    """float32 [C, C]: orthonormal DCT-II over steps and channels; column c is coefficient c."""
    return np.kron(_dct(length), _dct(channels)).T.astype(np.float32)


def _dct(size: int) -> np.ndarray:
    """float64 [size, size]: row k is the cosine of frequency k, with length 1."""
    k, n = np.mgrid[:size, :size]
    rows = np.cos(np.pi * k * (2 * n + 1) / (2 * size))
    normalised: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalised


def moves_coding(step: float = MOVE_STEP, floor: float = MOVE_FLOOR) -> Coding:
    """The coding of displacements, pixels."""
    return Coding(channels=2, step=step, floor=floor, centred=False)


def hog_coding(step: float = HOG_STEP, floor: float = HOG_FLOOR) -> Coding:
    """The coding of HOG, grey values per pixel."""
    return Coding(channels=NUM_BINS, step=step, floor=floor, centred=True, least=0.0)
