"""Parameters of TV-L1 flow: presets, pyramid sizes, filter taps and step lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass

SMALLEST_SIDE = 16  # px: smaller frames are refused, and no pyramid level is smaller

# Squared norm of the forward-difference operator of one flow component (Chambolle 2004, th. 3.1).
OPERATOR_NORM_SQUARED = 8.0
# Product of the two steps and the squared norm. Below 4/3 the primal-dual iteration still
# converges (He, Ma, Xu, Yuan: A generalized primal-dual algorithm with improved convergence
# condition for saddle point problems, SIAM J. Imaging Sci. 2022); the classical bound is 1.
STEP_PRODUCT = 1.28

PATCH = 8  # px: side of a patch
PATCH_STRIDE = 4  # px from a patch to the next one


@dataclass(frozen=True)
class PatchSearch:
    """Parameters of the patch search (patches.py). Its levels have halves of the size each."""

    smallest_side: int = 10
    """px: no smaller level, when the search starts from nothing."""
    grid_smallest_side: int = 48
    """px: no smaller level, when it starts from the grid; there the grid is tried."""
    grid_reach: int = 80
    """px of the frames: largest displacement of the grid along an axis; at most a third of the
    longer side."""
    grid_step: int = 2
    """px of that level: from a displacement of the grid to the next."""
    distances: tuple[int, ...] = (1, 2, 1, 2)
    """For each round: how many patches away the neighbours lie that offer their displacements."""
    steps: int = 8
    """Steps of each round."""


@dataclass(frozen=True)
class Starts:
    """Parameters of starts.py: flows at a small size, of which each pixel takes the best."""

    level: int = 4
    """The level of the pyramid of TV-L1 at whose size they are computed."""
    max_levels: tuple[int, ...] = (5, 99)
    """Pyramid levels of those that TV-L1 computes from nothing."""
    warps: int = 3
    """Linearisations at that size."""
    iterations: int = 10
    """Iterations of each of them."""
    search: PatchSearch = PatchSearch()
    """The patch search that the others start from."""
    window: int = 11
    """px: side of the window over which costs are summed; odd."""
    unlike: float = 6.0
    """Cost of a pixel: its difference of brightness, at most this; grey values."""
    strayed: float = 2.0
    """Cost of a pixel where the flow leads back by 1 px or more beside it; less for less."""
    left: float = 4.0
    """Cost of a pixel whose flow leaves the frame."""


@dataclass(frozen=True)
class Preset:
    """One set of parameters, with the letters of Sanchez Perez et al. (IPOL 2013), section 3.

    The energy per pixel is |grad u| + |grad v| + attachment * |I1(x + u) - I0(x)|, with grey values
    0..255. With tightness (theta) > 0, the data term is replaced by its Moreau envelope,
    min over v of attachment * |rho(v)| + |u - v|^2 / (2 theta). The duality method of Zach et al.
    minimises this for theta = 0.3. Theta = 0 gives the energy itself.
    """

    scheme: str = "primal-dual"
    """"primal-dual": Chambolle and Pock (2011), algorithm 1. "relaxed": alternation of
    thresholding and one semi-implicit dual step, as in Zach et al. (2007) and OpenCV."""

    attachment: float = 0.15
    """Weight of the data term per grey value (lambda)."""
    tightness: float = 0.05
    """Theta, see above; px^2."""
    step_ratio: float = 1.0
    """Primal-dual: square root of dual over primal step."""
    time_step: float = 0.25
    """Relaxed: step of the dual variable (tau)."""

    max_levels: int = 99
    """Largest number of pyramid levels, with the full size."""
    scale_step: float = 0.8
    """Size of a level divided by the size of the next finer one."""
    presmooth: float = 0.5
    """Standard deviation of the Gaussian filter of both frames; px, 0 for none."""
    pyramid_blur: float = 0.0
    """The Gaussian before each reduction has this times sqrt(1 / scale_step^2 - 1) px."""

    warps_fine: int = 3
    """Linearisations of the data term at full size."""
    iterations_fine: int = 20
    """Iterations per round at full size."""
    warps: int = 2
    """Linearisations of the data term at each smaller level."""
    iterations: int = 10
    """Iterations per round at each smaller level."""
    rounds: int = 1
    """Rounds of a median filter and iterations per warp."""
    median: int = 0
    """Side of the median filter of the flow before each round, 3 or 5; 0 for none."""
    stop: float = 0.0
    """Relaxed: a warp ends when the root mean squared change of the flow in one iteration is
    below this; px."""

    gradient: str = "interpolant"
    """Gradient of the second frame: of the cubic "interpolant", or "central" differences."""
    cubic: float = -0.6
    """Parameter a of cubic convolution (Keys 1981)."""
    dual_kept: float = 0.5
    """A level starts from the dual variables of the coarser level times this. 1 gives the lowest
    energy. 0 follows small moving objects better, whose motion the coarser level has smoothed
    away. 0.5 has most of both advantages."""

    starts: Starts | None = None
    """Flows to choose a start from, at the size of a level; no coarser level follows. None: the
    start is zero at the coarsest level."""

    @property
    def steps(self) -> tuple[float, float]:
        """Primal and dual step."""
        if self.scheme == "relaxed":
            return self.tightness, self.time_step / self.tightness
        root = math.sqrt(OPERATOR_NORM_SQUARED)
        return 1 / (self.step_ratio * root), STEP_PRODUCT * self.step_ratio / root

    @property
    def reach(self) -> float:
        """Factor of the longest step of the data term, attachment * reach * |gradient|."""
        return self.tightness + (self.steps[0] if self.scheme == "primal-dual" else 0.0)


PRESETS = {
    "opencv": Preset(
        scheme="relaxed", tightness=0.3, max_levels=5, scale_step=0.8, presmooth=0.0,
        warps_fine=5, iterations_fine=30, warps=5, iterations=30, rounds=10, median=5, stop=0.01,
        gradient="central", cubic=-0.75, dual_kept=0.0,
    ),
    "ipol": Preset(
        scheme="relaxed", tightness=0.3, scale_step=0.5, presmooth=0.8, pyramid_blur=0.6,
        warps_fine=5, iterations_fine=300, warps=5, iterations=300, median=0, stop=0.01,
        gradient="central", cubic=-0.5, dual_kept=0.0,
    ),
    "fast": Preset(),
    "large": Preset(
        warps_fine=4, iterations_fine=30, cubic=-0.7, dual_kept=1.0, starts=Starts(),
    ),
    "exact": Preset(
        tightness=0.0, step_ratio=4.0, presmooth=0.0, warps_fine=10, iterations_fine=60, warps=5,
        iterations=30, cubic=-0.75, dual_kept=1.0,
    ),
}  # fmt: skip


def level_sizes(height: int, width: int, preset: Preset) -> list[tuple[int, int]]:
    """(height, width) of the pyramid levels, full size first."""
    sizes = [(height, width)]
    while len(sizes) < preset.max_levels:
        height, width = sizes[-1]
        size = (round(height * preset.scale_step), round(width * preset.scale_step))
        if min(size) < SMALLEST_SIDE:
            break
        sizes.append(size)
    return sizes


def search_sizes(height: int, width: int, numbers: PatchSearch) -> list[tuple[int, int]]:
    """(height, width) of the levels of the patch search, half of the size first."""
    sizes = [(round(height / 2), round(width / 2))]
    while min(sizes[-1]) >= 2 * numbers.smallest_side:
        sizes.append((round(sizes[-1][0] / 2), round(sizes[-1][1] / 2)))
    return sizes


def gaussian_taps(sigma: float) -> list[float]:
    """One half of a normalised Gaussian, from its centre to 3 sigma; [1.0] for sigma 0."""
    if sigma == 0:
        return [1.0]
    taps = [math.exp(-(i * i) / (2 * sigma * sigma)) for i in range(math.ceil(3 * sigma) + 1)]
    total = 2 * sum(taps) - taps[0]
    return [tap / total for tap in taps]


def pyramid_sigma(preset: Preset) -> float:
    """Standard deviation of the Gaussian before a reduction, px of the finer level."""
    return preset.pyramid_blur * math.sqrt(1 / preset.scale_step**2 - 1)
