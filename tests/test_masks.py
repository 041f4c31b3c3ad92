"""Every mask over thousands of scenes: exact counts, uniform places, keyed by the view."""

import numpy as np
import pytest
from errors import refuses
from scipy.stats import chi2

from shared.masks import MASKS, Scene, _bounce
from shared.randomness import counter_generator
from shared.rectangles import draw_aspect, nearest_cells, sides
from shared.scene import masked_counts, round_half_up

T, G = 8, 14
DRAWS = 10_000


def scene_of(rng, time_steps=T, grid=G) -> Scene:
    """A scene with a random box of positions, possibly none or all, and random motion."""
    inside = np.zeros((grid, grid), dtype=np.bool_)
    (top, bottom), (left, right) = np.sort(rng.integers(0, grid + 1, (2, 2)), axis=1)
    inside[top:bottom, left:right] = True
    motion = rng.gamma(0.3, size=(time_steps, grid, grid)).astype(np.float32)
    motion *= rng.random(motion.shape) < 0.8
    moving = rng.random((grid, grid)) < rng.choice([0.0, 0.1, 0.4, 0.8, 1.0])
    return Scene(time_steps, inside, motion, moving=moving)


KINDS = {
    "tube": {"mask_ratio": 0.9},
    "motion_tube": {"mask_ratio": 0.9, "inside_ratio": 0.75},
    "motion_tube positions": {"mask_ratio": 0.9, "inside_ratio": 0.75, "inside": "positions"},
    "random": {"mask_ratio": 0.9},
    "block": {"mask_ratio": 0.75},
    "cube": {"mask_ratio": 0.4},
    "smm": {"mask_ratio": 0.75},
    "smm sparse": {"mask_ratio": 0.75, "pattern": "sparse"},
    "mgm": {"mask_ratio": 0.75},
    "mgm sparse": {"mask_ratio": 0.75, "pattern": "sparse"},
}


def draw(name: str, scene: Scene, *key, **changes) -> np.ndarray:
    """bool [T', R, Q]"""
    options = KINDS[name] | changes
    mask = MASKS[name.split()[0]].draw(scene, counter_generator(*key), **options)
    assert mask.dtype == np.bool_ and mask.shape == (scene.time_steps * scene.inside.size,)
    return mask.reshape(scene.time_steps, *scene.grid)


def uniform_pvalue(counts: np.ndarray, draws: int) -> float:
    """How likely counts [P] of `draws` draws without replacement are, if all are as likely.

    Pearson's statistic, but with the variance of draws without replacement.
    """
    expected = counts.mean()
    share = expected / draws
    statistic = ((counts - expected) ** 2).sum() / (expected * (1 - share))
    return chi2.sf(statistic * (1 - 1 / counts.size), counts.size - 1)


# ---------------------------------------------------------------------------------------------
# What all masks have in common
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_counts_are_exact_over_random_boxes_and_seeds(name):
    """In all and, but for random tokens, at every time step; on grids and ratios of any kind."""
    scenes = np.random.default_rng(1)
    for number in range(DRAWS):
        grid = int(scenes.integers(4, 15))
        scene = scene_of(scenes, int(scenes.integers(1, 5)), grid)
        ratio = scenes.uniform(0.05, 0.95)
        mask = draw(name, scene, number, mask_ratio=ratio)
        if name == "random":
            assert mask.sum() == round_half_up(ratio * mask.size)
            continue
        count = round_half_up(ratio * grid * grid)
        assert (mask.sum(axis=(1, 2)) == count).all()
        if name.startswith("motion_tube"):
            where = scene.moving if name.endswith("positions") else scene.inside
            inside = masked_counts(grid * grid, int(where.sum()), ratio, 0.75)[1]
            assert (mask[:, where].sum(axis=1) == inside).all()


@pytest.mark.parametrize("name", KINDS)
def test_the_key_decides_the_mask(name):
    scene = scene_of(np.random.default_rng(2))
    key = (0, 3, "clip", 1)
    first = draw(name, scene, *key)
    assert np.array_equal(first, draw(name, scene, *key))
    for other in [(1, 3, "clip", 1), (0, 4, "clip", 1), (0, 3, "clap", 1), (0, 3, "clip", 2)]:
        assert not np.array_equal(first, draw(name, scene, *other))


@pytest.mark.parametrize("name", ["tube", "random", "smm sparse"])
def test_every_position_is_equally_likely(name):
    scene = scene_of(np.random.default_rng(3))
    counts = sum(draw(name, scene, 5, number).astype(int) for number in range(DRAWS))
    if name == "random":
        assert uniform_pvalue(counts.ravel(), DRAWS) > 1e-6
    else:
        for step in counts:
            assert uniform_pvalue(step.ravel(), DRAWS) > 1e-6


def test_the_measure_of_uniformity_sees_a_bias_of_five_percent():
    rng = np.random.default_rng(4)
    weights = np.ones(196)
    weights[:98] = 1.05
    counts = np.zeros(196)
    for _ in range(DRAWS):
        counts[np.argsort(rng.exponential(size=196) / weights)[:98]] += 1
    assert uniform_pvalue(counts, DRAWS) < 1e-6


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (2, 3, 9, 8), (0, 0, 14, 14)])
def test_every_position_of_a_part_is_equally_likely(box):
    left, top, right, bottom = box
    inside = np.zeros((G, G), dtype=bool)
    inside[top:bottom, left:right] = True
    counts = sum(draw("motion_tube", Scene(1, inside), 7, n)[0].astype(int) for n in range(DRAWS))
    for part in (inside, ~inside):
        if part.any():
            assert uniform_pvalue(counts[part], DRAWS) > 1e-6


def test_what_is_inside_has_two_names():
    scene = scene_of(np.random.default_rng(4))
    with refuses("unknown-name", "inside", "contours", "box", "positions"):
        draw("motion_tube", scene, 0, inside="contours")


@pytest.mark.parametrize("name", ["tube", "motion_tube", "motion_tube positions", "block"])
def test_static_masks_do_not_move(name):
    for number in range(100):
        mask = draw(name, scene_of(np.random.default_rng(number)), number)
        assert (mask == mask[0]).all()


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("random", {"mask_ratio": 1.0}, "out-of-range"),
        ("motion_tube", {"inside_ratio": -0.1}, "out-of-range"),
        ("block", {"aspect": (2.0, 1.0)}, "out-of-range"),
        ("smm", {"aspect": (0.0, 1.0)}, "out-of-range"),
        ("cube", {"min_positions": 0}, "out-of-range"),
        ("smm", {"pattern": "stripes"}, "unknown-name"),
        ("smm", {"speed": (3.0, 1.0)}, "out-of-range"),
        ("smm", {"velocity": "frame"}, "unknown-name"),
        ("mgm", {"first": "last"}, "unknown-name"),
        ("smm sparse", {"aspect": (1.0, 1.0)}, "option-unused"),
        ("mgm", {"pattern": "stripes"}, "unknown-name"),
        ("mgm sparse", {"aspect": (1.0, 1.0)}, "option-unused"),
    ],
)
def test_wrong_options_are_named(name, options, code):
    [(option, value)] = options.items()
    with refuses(code, option, *([value] if code != "option-unused" else [])):
        draw(name, scene_of(np.random.default_rng(0)), 0, **options)


# ---------------------------------------------------------------------------------------------
# Rectangles
# ---------------------------------------------------------------------------------------------


def slow_nearest(centre, size, grid, count, ties):
    """The same by sorting a list of cells."""
    cells = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            across = abs(column + 0.5 - centre[0]) / size[0]
            down = abs(row + 0.5 - centre[1]) / size[1]
            cells.append((max(across, down), ties[row, column], row, column))
    taken = {(row, column) for _, _, row, column in sorted(cells)[:count]}
    return np.array([[(r, c) in taken for c in range(grid[1])] for r in range(grid[0])])


def test_nearest_cells_are_those_of_a_sort():
    rng = np.random.default_rng(5)
    for _ in range(50):
        grid = tuple(int(side) for side in rng.integers(1, 9, 2))
        count = int(rng.integers(0, grid[0] * grid[1] + 1))
        # Half of the centres on cell centres and borders, where many cells are equally near.
        centre = rng.uniform(0, 8, (3, 2))
        centre[0] = np.round(centre[0] * 2) / 2
        size = sides(max(count, 1), draw_aspect(rng, (0.5, 2.0), 3), grid)
        ties = rng.random(grid)
        found = nearest_cells(centre, size, grid, count, ties)
        for step in range(3):
            expected = slow_nearest(centre[step], size[step], grid, count, ties)
            assert np.array_equal(found[step], expected)


def test_a_rectangle_whose_sides_are_whole_is_that_rectangle():
    found = nearest_cells(
        np.array([[5.0, 4.5]]), np.array([[6.0, 3.0]]), (10, 10), 18, np.zeros((10, 10))
    )
    expected = np.zeros((10, 10), dtype=bool)
    expected[3:6, 2:8] = True
    assert np.array_equal(found[0], expected)


@pytest.mark.parametrize("grid", [(14, 14), (4, 4), (7, 12)])
def test_sides_keep_the_area_and_stay_in_the_grid(grid):
    rng = np.random.default_rng(6)
    for count in range(1, grid[0] * grid[1] + 1):
        width, height = sides(count, draw_aspect(rng, (0.3, 3.0), 1), grid)[0]
        assert width * height == pytest.approx(count)
        assert width <= grid[1] + 1e-9 and height <= grid[0] + 1e-9


@pytest.mark.parametrize("name", ["block", "smm"])
def test_dense_masks_are_rectangles_with_a_border_of_one_cell(name):
    """All cells of the box around the mask but for those along its border are masked."""
    for number in range(300):
        for cells in draw(name, scene_of(np.random.default_rng(number)), number):
            rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
            within = cells[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]]
            assert within.all()
            assert 0.7 < len(columns) / len(rows) < 1.5


def test_block_is_anywhere_in_the_grid():
    scene = Scene(1, np.zeros((G, G), dtype=bool))
    masks = [draw("block", scene, 1, n, mask_ratio=0.25)[0] for n in range(2000)]
    counts = np.sum(masks, axis=0)
    # Mirrored and turned, the chance is the same: what lies in the middle is hidden most.
    assert counts.min() > 0 and counts.argmax() // G in range(5, 9)
    for turned in (counts[::-1], counts[:, ::-1], counts.T):
        assert np.abs(counts - turned).max() < 6 * np.sqrt(counts.max())


def test_cubes_last_and_change():
    """Spans of one pattern, each another's; over many draws every length of span occurs."""
    spans = set()
    for number in range(300):
        mask = draw("cube", scene_of(np.random.default_rng(number)), number)
        begins = [0] + [t for t in range(1, T) if (mask[t] != mask[t - 1]).any()] + [T]
        spans |= set(np.diff(begins))
    assert spans == set(range(1, T + 1))


def test_cubes_are_blocks_rather_than_specks():
    """Two neighbours are hidden alike far more often than in a random tube of the same ratio."""
    alike = {"cube": [], "tube": []}
    for name, found in alike.items():
        for number in range(100):
            mask = draw(name, scene_of(np.random.default_rng(number)), number, mask_ratio=0.4)
            found.append((mask[:, :, 1:] == mask[:, :, :-1]).mean())
    assert np.mean(alike["cube"]) > 0.75 > 0.6 > np.mean(alike["tube"])


# ---------------------------------------------------------------------------------------------
# Simulated motion
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "least"), [("smm", 0.95), ("smm sparse", 1.0)])
def test_simulated_motion_moves(name, least):
    """Nearly always: a dense one may begin in a corner and be reflected into it."""
    scene = Scene(T, np.zeros((G, G), dtype=bool))
    masks = [draw(name, scene, 2, n) for n in range(500)]
    assert np.mean([(mask != mask[0]).any() for mask in masks]) >= least
    same_shape = {} if "sparse" in name else {"aspect": (1.0, 1.0)}
    still = draw(name, scene, 2, 0, speed=(0.0, 0.0), **same_shape)
    assert (still == still[0]).all()


def moved_centres(number: int, **options) -> np.ndarray:
    """Centres x, y [4, 2] of a square of 5 x 5 cells in 40 x 40 that moves 1.5 cells a step."""
    scene = Scene(4, np.zeros((40, 40), dtype=bool))
    rows, columns = np.mgrid[:40, :40] + 0.5
    options |= {"mask_ratio": 25 / 1600, "speed": (1.5, 1.5), "aspect": (1.0, 1.0)}
    mask = draw("smm", scene, 3, number, **options)
    return np.array([[columns[step].mean(), rows[step].mean()] for step in mask])


def test_each_step_has_a_velocity_of_its_own():
    """Eq. 5. Directions of two steps do not depend on each other: their mean cosine is 0."""
    cosines = []
    for number in range(400):
        centres = moved_centres(number)
        if (np.abs(centres[0] - 20) < 10).all():  # 3 steps of 1.5 do not reach a border
            steps = np.diff(centres, axis=0)
            lengths = np.hypot(*steps.T)
            assert lengths == pytest.approx([1.5] * 3, abs=1.0)  # whole cells
            cosines += list((steps[:-1] * steps[1:]).sum(axis=1) / (lengths[:-1] * lengths[1:]))
    assert len(cosines) > 100 and abs(np.mean(cosines)) < 5 * np.sqrt(0.5 / len(cosines))


def test_a_dense_mask_moves_by_its_speed():
    """With one velocity for the clip a small rectangle is carried along a line."""
    seen = 0
    for number in range(200):
        centres = moved_centres(number, velocity="clip")
        if (np.abs(centres[0] - 20) < 10).all():  # 3 steps of 1.5 do not reach a border
            seen += 1
            assert np.hypot(*(centres[3] - centres[0])) == pytest.approx(4.5, abs=1.5)
            assert np.abs(centres[3] + centres[0] - centres[1] - centres[2]).max() <= 1.0
    assert seen > 20


def test_places_are_reflected_at_both_ends():
    place, velocity, path = np.array([1.0, 0.5]), np.array([0.75, -2.0]), []
    for _ in range(4):
        place, velocity = _bounce(place, velocity, np.array([2.0, 0.0]))
        path.append(place[0])
    assert path == pytest.approx([1.75, 1.5, 0.75, 0.0])
    assert place[1] == pytest.approx(0.0, abs=1e-8)  # no room, no motion
    # Several times in one step: 1 -> 2 -> 0 -> 2 -> 1.5
    far, back = _bounce(np.array([1.0]), np.array([5.5]), np.array([2.0]))
    assert far == pytest.approx([1.5]) and back == pytest.approx([-5.5])


def test_a_sparse_pattern_keeps_its_shape_and_comes_back_on_the_other_side():
    for number in range(200):
        mask = draw("smm sparse", Scene(T, np.zeros((5, 7), dtype=bool)), 4, number)
        for step in mask[1:]:
            turns = [np.roll(mask[0], (y, x), (0, 1)) for y in range(5) for x in range(7)]
            assert any(np.array_equal(step, turn) for turn in turns)


# ---------------------------------------------------------------------------------------------
# The clip's own motion
# ---------------------------------------------------------------------------------------------


def test_a_dense_mask_lies_around_the_largest_motion():
    """In the middle of what is hidden, wherever the grid leaves room for that."""
    rng = np.random.default_rng(8)
    rows, columns = np.mgrid[:40, :40]
    shapes = set()
    for number in range(200):
        motion = rng.random((T, 40, 40)).astype(np.float32)
        peaks = rng.integers(8, 32, (T, 2))
        motion[np.arange(T), peaks[:, 0], peaks[:, 1]] = 2.0
        scene = Scene(T, np.zeros((40, 40), dtype=bool), motion)
        mask = draw("mgm", scene, number, mask_ratio=100 / 1600, first="motion")
        assert mask[np.arange(T), peaks[:, 0], peaks[:, 1]].all()
        centres = [[rows[step].mean(), columns[step].mean()] for step in mask]
        assert np.abs(centres - peaks).max() < 0.75
        shapes |= {tuple(np.ptp(np.argwhere(step), axis=0) + 1) for step in mask}
    assert {(12, 9), (9, 12)} <= shapes  # the box around 100 cells, by their aspect


def test_a_dense_mask_in_a_corner_still_has_its_count():
    motion = np.zeros((1, G, G), dtype=np.float32)
    motion[0, 0, 13] = 1.0
    scene = Scene(1, np.zeros((G, G), dtype=bool), motion)
    mask = draw("mgm", scene, 0, mask_ratio=0.25, first="motion", aspect=(1.0, 1.0))[0]
    expected = np.zeros((G, G), dtype=bool)
    expected[:7, 7:] = True
    assert np.array_equal(mask, expected)


def test_without_motion_any_place_is_as_good():
    scene = Scene(1, np.zeros((G, G), dtype=bool), np.zeros((1, G, G), dtype=np.float32))
    for name in ("mgm", "mgm sparse"):
        ratio = 1 / 196 if name == "mgm" else 0.75  # the one cell of the centre
        counts = sum(draw(name, scene, 9, n, mask_ratio=ratio).astype(int) for n in range(DRAWS))
        assert uniform_pvalue(counts.ravel(), DRAWS) > 1e-6


@pytest.mark.parametrize("name", ["mgm", "mgm sparse"])
def test_the_first_mask_is_anywhere_and_the_others_on_the_motion(name):
    """As in the paper; `first="motion"` places the first mask on the motion too."""
    motion = np.zeros((T, G, G), dtype=np.float32)
    motion[:, 3, 4] = 1.0
    scene = Scene(T, np.zeros((G, G), dtype=bool), motion)
    ratio = 1 / 196  # one cell
    masks = np.stack([draw(name, scene, 13, n, mask_ratio=ratio) for n in range(DRAWS)])
    assert masks[:, 1:, 3, 4].all()
    assert uniform_pvalue(masks[:, 0].sum(axis=0).ravel(), DRAWS) > 1e-6
    assert draw(name, scene, 13, 0, mask_ratio=ratio, first="motion")[:, 3, 4].all()


@pytest.mark.parametrize("name", ["mgm", "mgm sparse"])
@pytest.mark.parametrize("first", ["random", "motion"])
def test_a_mask_stays_where_it_is_while_nothing_moves(name, first):
    """Steady motion along a row, at rest in the steps 0, 1, 4 and 5."""
    motion = np.zeros((8, G, G), dtype=np.float32)
    for step in (2, 3, 6, 7):
        motion[step, 7, 2 + step] = 1.0
    scene = Scene(8, np.zeros((G, G), dtype=bool), motion)
    for number in range(50):
        mask = draw(name, scene, 14, number, mask_ratio=0.1, first=first)
        assert np.array_equal(mask[0], mask[1])
        assert np.array_equal(mask[3], mask[4]) and np.array_equal(mask[4], mask[5])
        assert all(mask[step, 7, 2 + step] for step in (2, 3, 6, 7))
        assert not np.array_equal(mask[1], mask[2]) and not np.array_equal(mask[5], mask[6])


def test_sparse_positions_are_drawn_by_their_motion_one_after_another():
    """Against the chances of successive draws, worked out over all orders."""
    weights = np.array([1.0, 2.0, 3.0, 6.0])
    chance = np.zeros(4)
    for first in range(4):
        for second in range(4):
            if first != second:
                drawn = weights[first] / 12 * weights[second] / (12 - weights[first])
                chance[[first, second]] += drawn
    scene = Scene(1, np.zeros((2, 2), dtype=bool), weights.reshape(1, 2, 2).astype(np.float32))
    counts = np.zeros(4)
    for number in range(DRAWS):
        counts += draw("mgm sparse", scene, 10, number, mask_ratio=0.5, first="motion").ravel()
    deviation = np.sqrt(DRAWS * chance * (1 - chance))
    assert (np.abs(counts - DRAWS * chance) < 5 * deviation).all()


def test_still_positions_are_hidden_last():
    motion = np.zeros((1, G, G), dtype=np.float32)
    motion[0, :7] = np.random.default_rng(11).random((7, G)) + 1e-30
    scene = Scene(1, np.zeros((G, G), dtype=bool), motion)
    few, many = (
        draw("mgm sparse", scene, 12, mask_ratio=ratio, first="motion")[0] for ratio in (0.4, 0.75)
    )
    assert not few[7:].any()
    assert many[:7].all() and many[7:].sum() == 147 - 98
