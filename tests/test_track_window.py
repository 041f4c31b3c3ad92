"""The frames where tracks start are the first frames of the tubelets that training windows have."""

import numpy as np
import pytest
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st

from shared.track_window import TrackWindow
from train.clips.view_rules import dense
from train.options.recipe import pretrain_config, read_recipe

WINDOWS = st.builds(
    lambda tubelets, stride, tubelet: TrackWindow(tubelets * tubelet, stride, tubelet),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 4),
)


@given(WINDOWS, st.integers(1, 90))
def test_starts_are_those_of_all_windows(window, num_frames):
    found = set()
    for place in np.linspace(0, 1, 2 * num_frames, endpoint=False):
        places = np.full(window.frames, place)
        frames = dense(
            num_frames, window.frames, places, stride=window.stride, begins_every=window.every
        )
        assert num_frames < window.span or frames[0] % window.every == 0
        found |= set(frames[:: window.tubelet].tolist())
    assert window.starts(num_frames).tolist() == sorted(found)


@given(WINDOWS, st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_no_start_is_missed_while_the_length_is_unknown(window, chunks):
    """Chunks of a clip come one after another; only the last one shows how long the clip is."""
    ends = np.cumsum(chunks)
    kept = []
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        frames = np.arange(first, end)
        some = window.possible_starts(frames, int(end), ended=bool(end == ends[-1]))
        assert set(some) <= set(frames)
        kept += some.tolist()
    assert set(window.starts(int(ends[-1])).tolist()) <= set(kept)
    assert kept == sorted(set(kept))


@given(st.integers(1, 60), st.integers(1, 5), st.floats(0, 1, exclude_max=True))
def test_windows_begin_anywhere_by_default(num_frames, stride, place):
    places = np.full(4, place)
    frames = dense(num_frames, 4, places, stride=stride)
    span = 3 * stride + 1
    if num_frames >= span:
        assert frames[0] == int(place * (num_frames - span + 1))
        assert np.diff(frames).tolist() == [stride] * 3


def test_the_text_of_a_window():
    window = TrackWindow.parse("16x3x2")
    assert window == TrackWindow(16, 3, 2) and str(window) == "16x3x2"
    assert (window.span, window.every) == (46, 6)
    assert window.starts(45).tolist() == [0, 6, 12, 18, 23, 29, 35, 41]
    assert window.starts(46).tolist() == [0, 6, 12, 18, 24, 30, 36, 42]
    for text in ("16", "16x3", "ax3x2", "16x3x2x1", "-16x3x2", ""):
        with refuses("bad-setting", "--track-window", text):
            TrackWindow.parse(text)
    for text in ("0x3x2", "16x0x2", "15x3x2"):
        with refuses("out-of-range", text):
            TrackWindow.parse(text)


@pytest.mark.parametrize("name", ["ssv2", "toy", "small", "default", "k400", "epic100"])
def test_recipes_need_few_tracks(name):
    """And tracks at every frame as soon as an option makes other frames the first of a tubelet."""
    recipe = read_recipe(name, None)
    config = pretrain_config(recipe, "mme")
    needs, options = config.needed_motion, config.frames.options
    window = TrackWindow(config.model.num_frames, options["stride"], config.model.tubelet_size)
    assert needs.track_window == window
    for changes in (
        {"frames": {"begins_every": options["begins_every"] + 1}},
        {"frames": {"short": "repeat"}},
        {"shuffle_frames": True},
        {"trajectories": {"kind": "flow"}},
        {"trajectories": {"shape": False, "fixed_hog": True}},
        {"mask": {"kind": "flow_tube", "mask_ratio": 0.9}},
    ):
        assert pretrain_config(recipe, "mme", changes).needed_motion.track_window is None, changes
    assert pretrain_config(recipe, "mgmae").needed_motion.track_window is None


def test_a_window_that_begins_every_zero_frames_is_refused():
    with refuses("out-of-range", "begins_every", 0):
        dense(40, 4, np.zeros(4), stride=2, begins_every=0)
