"""Every frame of the picture is decoded, whatever other tracks a file has before and after it."""

import numpy as np
import pytest
from companion_tracks import (
    CONTAINERS,
    NUM_FRAMES,
    TYPES,
    layouts_of,
    render_tracks,
    track_types,
)
from test_decode import decode
from test_spans import frames_of, read_together
from video_fixtures import moving_picture

from shared.manifest import Clip

CASES = [(extension, layout) for extension in CONTAINERS for layout in layouts_of(extension)]


def names_of(case):
    extension, layout = case
    return f"{extension}: {', '.join(layout)}"


def indices_of(rgb):
    """Which picture each frame shows."""
    truth = np.stack([moving_picture(i) for i in range(NUM_FRAMES)]).astype(float)
    distance = np.abs(rgb.astype(float)[:, None] - truth[None]).mean(axis=(2, 3, 4))
    return distance.argmin(axis=1)


@pytest.mark.parametrize("case", CASES, ids=names_of)
def test_every_frame_of_the_picture_is_decoded(tmp_path, case):
    extension, layout = case
    path = render_tracks(tmp_path / f"a.{extension}", layout)
    found = track_types(path)
    assert len(found) == len(layout)
    assert [TYPES.get(kind, found[i]) for i, kind in enumerate(layout)] == found
    whole, times = decode(path)
    assert np.array_equal(indices_of(whole), np.arange(NUM_FRAMES))
    rate = CONTAINERS[extension][1]
    # The file may start with sound, less than a frame before the picture.
    for first, last in ((0, 13), (20, 37), (40, NUM_FRAMES), (30, 2 * NUM_FRAMES)):
        span, span_times = decode(path, round(first / rate, 3), round(last / rate, 3))
        assert np.array_equal(span, whole[first:last])
        assert np.array_equal(span_times, times[first:last])
    if extension != "avi":  # whose clips are decoded one by one
        spans = [(0, 13), (5, 37), (30, 2 * NUM_FRAMES)]
        clips = [
            Clip(str(i), path.name, round(a / rate, 3), round(b / rate, 3))
            for i, (a, b) in enumerate(spans)
        ]
        chunks, ends = read_together(clips, tmp_path)
        assert set(ends.values()) == {None}
        for index, (first, last) in enumerate(spans):
            assert np.array_equal(frames_of(chunks[index])[0], whole[first:last])
