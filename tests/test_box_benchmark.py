"""The bench of motion boxes: halves, windows, constant boxes, intervals, sets of the samples."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.annotated_sets import AnnotatedClip, annotated_sets, half_of
from benchmarks.boxes import best_constant, figures, interval, measures, moving_measures, windows

SAMPLES = Path(__file__).resolve().parents[1] / ".." / "shared" / "samples"
SIZE = (320, 240)


def clip(boxes, source="a") -> AnnotatedClip:
    """A clip whose annotated boxes are those given, and that has them as motion boxes too."""
    boxes = np.array(boxes, np.float32)
    frames = np.arange(len(boxes))
    areas = np.zeros((len(boxes), 24, 32), np.bool_)
    areas[:, :, :16] = True  # the left half
    annotated = boxes[:, None].astype(np.float64)
    return AnnotatedClip("clip", source, SIZE, boxes, frames, annotated, areas)


def test_halves_are_fixed():
    tune = {"2", "44862", "57082", "862", "breakdance", "car-shadow", "dog", "kite-surf",
            "scooter-black"}  # fmt: skip
    report = {"2003", "22983", "3201", "blackswan", "camel", "drift-chicane", "libby"}
    assert {half_of(source) for source in tune} == {"tune"}
    assert {half_of(source) for source in report} == {"report"}
    share = np.mean([half_of(str(number)) == "tune" for number in range(2000)])
    assert share == pytest.approx(0.5, abs=0.05)


def test_windows_are_16_frames_every_second_one():
    assert [window[[0, -1]].tolist() for window in windows(40)] == [[0, 30], [4, 34], [8, 38]]
    [short] = windows(20)
    assert short.tolist() == [*range(0, 20, 2), *[19] * 6]


def test_right_boxes_measure_perfectly_and_missing_ones_as_nothing():
    right = clip([(40, 40, 140, 200)] * 31)
    found = measures(right, right.boxes)
    assert found.iou == 1 and found.recall == 1 and found.area == pytest.approx(100 * 160 / 76800)
    assert found.positions.tolist() == [6 * 10]  # centres from 8 to 88 and from 40 to 184
    missing = right.boxes.copy()
    missing[::2] = np.nan
    assert measures(right, missing).iou == pytest.approx(15 / 31)


def test_what_moves_is_measured_against_the_annotated_area():
    """The canonical view is 240 of 320 pixels wide, so the left half is 120 of its 240 pixels."""
    found = moving_measures(clip([(100, 0, 220, 240)] * 31))
    assert found.positions.tolist() == [7 * 14]
    assert found.recall == pytest.approx(0.5) and found.iou == 1


def test_the_best_constant_box_is_found():
    clips = [clip([(64, 48, 160, 192)] * 4), clip([(64, 48, 160, 192)] * 9)]
    assert best_constant(clips) == pytest.approx([0.2, 0.2, 0.5, 0.8])


def test_intervals_are_over_sources_and_not_over_clips():
    """Two sources that differ: with any number of clips, the mean may be that of either source."""
    clips = [measures(clip([(0, 0, 320, 240)] * 2, "a"), np.full((2, 4), np.nan))] * 50
    clips += [measures(clip([(0, 0, 320, 240)] * 2, "b"), np.tile([0.0, 0, 320, 240], (2, 1)))] * 50
    assert interval(clips, lambda each: each.iou) == [0, 1]
    found = figures(clips)
    assert found["iou"] == 0.5 and found["sources"] == 2 and found["all_inside"] == 0.5


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no sample data beside the checkout")
def test_sets_of_the_samples_keep_sources_together(tmp_path):
    sets = annotated_sets(SAMPLES, None, tmp_path)
    assert set(sets) == {"davis", "jhmdb", "ssv2"}
    jhmdb = sets["jhmdb"]
    assert len({path.stem for path in jhmdb.videos}) == len(jhmdb.videos) > 600
    assert len(set(jhmdb.sources.values())) < len(jhmdb.videos) / 2
    first = (jhmdb.annotations / f"{jhmdb.videos[0].stem}.boxes.csv").read_text().splitlines()
    x1, y1, x2, y2 = map(float, first[1].split(",")[1:])
    assert 0 <= x1 < x2 <= 170.001 and 0 <= y1 < y2 <= 128.001
