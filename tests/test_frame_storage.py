"""The benchmark of stored frames: its ways are those of `flows`, and its measures are right."""

import json

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from errors import refused

from benchmarks import frame_storage
from benchmarks.frame_storage import WAYS, Way, chosen_frames, fidelity, structural_similarity
from preprocess.flow_run.config import FlowsConfig
from preprocess.flow_run.decode_step import jpeg_frames


def texture(height=48, width=80):
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def test_the_first_way_is_that_of_flows():
    config, frame = FlowsConfig("any"), texture()
    assert (WAYS[0].short_side, WAYS[0].quality) == (config.frame_short_side, config.jpeg_quality)
    [stored] = jpeg_frames(frame[None], config.jpeg_quality)
    assert np.array_equal(WAYS[0].encode(frame), stored)


def test_quality_and_chroma_decide_the_size():
    sizes = [
        len(way.encode(texture())) for way in (Way(256, 80), Way(256, 90), Way(256, 90, "4:4:4"))
    ]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]


def test_similarity():
    frame = texture()
    assert structural_similarity(frame, frame) == pytest.approx(1.0)
    flat = np.full_like(frame, 100)
    lighter = np.full_like(frame, 120)
    expected = (2 * 100 * 120 + 2.55**2) / (100**2 + 120**2 + 2.55**2)  # of flat pictures
    assert structural_similarity(flat, lighter) == pytest.approx(expected, abs=1e-6)
    assert structural_similarity(frame, flat) < 0.2


def test_fidelity_falls_with_quality():
    clip = np.stack([texture()] * 2)
    found = []
    for quality in (95, 50):
        files = [Way(256, quality).encode(frame) for frame in clip]
        found.append(
            fidelity([clip], [np.stack([cv2.imdecode(f, cv2.IMREAD_COLOR_RGB) for f in files])])
        )
    assert found[0][0] > found[1][0] > 15 and 1 > found[0][1] > found[1][1]


@pytest.fixture
def samples(tmp_path):
    """One short video of 120 lines in each set."""
    for name in frame_storage.SETS:
        path = tmp_path / name / "clip.mp4"
        path.parent.mkdir()
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=12)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            for step in range(34):
                picture = np.roll(texture(120, 160), 2 * step, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    return tmp_path


def test_rows_are_written_part_by_part(samples, monkeypatch):
    out = samples / "found.json"
    out.write_text(json.dumps({"probe": {"rows": ["kept"]}}))
    asked = ["--samples", str(samples), "--only", "views", "--rounds", "1", "--out", str(out)]
    done = CliRunner().invoke(frame_storage.main, asked)
    assert done.exit_code == 0, done.output
    content = json.loads(out.read_text())
    assert content["probe"]["rows"] == ["kept"]
    rows = content["views"]["rows"]
    # The videos have fewer lines than any short side, so that quality and chroma alone differ.
    assert [(row["quality"], row["chroma"]) for row in rows[:3]] == [
        (90, "4:2:0"), (90, "4:4:4"), (80, "4:2:0"),
    ]  # fmt: skip
    assert len(rows) == 9 and all(row["milliseconds_a_clip"] > 0 for row in rows)
    assert str(samples) not in content["views"]["command"]
    assert chosen_frames(samples / "davis/clip.mp4", 64).shape == (16, 64, 85, 3)


def test_unknown_folds_are_named():
    refused(CliRunner().invoke(frame_storage.main, ["--folds", "1,7"]), "unknown-name", "'7'")


def test_missing_samples_are_named(tmp_path):
    asked = ["--samples", str(tmp_path), "--only", "views", "--out", str(tmp_path / "out.json")]
    refused(CliRunner().invoke(frame_storage.main, asked), "missing-file", tmp_path, "--samples")
