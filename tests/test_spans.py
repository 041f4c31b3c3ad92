"""Clips of one long video: what overlaps is decoded once, and each clip is as if read alone."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pool import shards_of
from video_fixtures import moving_picture, render_video

from preprocess.flow.options import FlowOptions
from preprocess.flow_run.decode_groups import ClipTask, group_overlapping
from preprocess.flow_run.decode_step import BATCH_FRAMES, Decoder
from preprocess.flow_run.messages import ClipDecoded, WorkerOptions
from preprocess.flow_run.pool import InProcessPool
from preprocess.flow_run.ray_pool import RayPool
from preprocess.video.decode import Tally, decode_clip
from preprocess.video.errors import ClipError
from preprocess.video.frame_chunks import STEP_FRAMES, DecodeOptions
from preprocess.video.spans import decode_together
from shared.manifest import Clip

RATE = 12


def clips_of(path, spans):
    return [
        Clip(f"clip-{i}", path.name, round(start / RATE, 3), round(stop / RATE, 3))
        for i, (start, stop) in enumerate(spans)
    ]


def frames_of(chunks):
    chunks = list(chunks)
    rgb = np.concatenate([chunk.rgb for chunk in chunks])
    return rgb, np.concatenate([chunk.pts_seconds for chunk in chunks])


def read_together(clips, folder, chunk_frames=64):
    """Chunks by clip, and what each ended with."""
    options = DecodeOptions(chunk_frames=chunk_frames)
    chunks: dict[int, list] = {}
    ends = {}
    for index, step in decode_together(clips, folder, options, Tally()):
        if step is None or isinstance(step, ClipError):
            assert index not in ends
            ends[index] = step
        else:
            assert index not in ends
            chunks.setdefault(index, []).append(step)
    return chunks, ends


@pytest.mark.parametrize(
    ("codec", "extension"),
    [
        ("libx264", "mp4"),
        ("libx264", "mkv"),
        ("libx264", "ts"),
        ("libvpx-vp9", "webm"),
        ("mpeg2video", "mpg"),
    ],
)
def test_clips_read_together_are_as_read_alone(tmp_path, codec, extension):
    path = render_video(tmp_path / f"a.{extension}", 150, codec=codec, keyframe_every=9)
    clips = clips_of(path, [(5, 30), (5, 90), (20, 22), (29, 60), (60, 75), (74, 150), (80, 81)])
    chunks, ends = read_together(clips, tmp_path, chunk_frames=16)
    for index, clip in enumerate(clips[:-1]):
        assert ends[index] is None
        alone = list(decode_clip(clip, tmp_path, DecodeOptions(chunk_frames=16)))
        assert [c.first_index for c in chunks[index]] == [c.first_index for c in alone]
        assert [c.is_last for c in chunks[index]] == [c.is_last for c in alone]
        for found, expected in zip(frames_of(chunks[index]), frames_of(alone), strict=True):
            assert np.array_equal(found, expected)
    assert "one frame" in ends[6].reason  # a clip that is unfit alone is so here


def test_clips_of_intra_refresh_are_as_read_alone(tmp_path):
    options = {"x264-params": "intra-refresh=1:keyint=30:bframes=0"}
    path = render_video(tmp_path / "a.mkv", 120, options=options, keyframe_every=30)
    spans = [(61, 80), (62, 70), (64, 75), (70, 90)]
    chunks, ends = read_together(clips_of(path, spans), tmp_path)
    assert set(ends.values()) == {None}
    for index, span in enumerate(spans):
        _, seconds = frames_of(chunks[index])
        np.testing.assert_allclose(seconds, np.arange(*span) / RATE, atol=1e-3)


def test_frames_are_those_of_the_span(tmp_path):
    path = render_video(tmp_path / "a.mp4", 60)
    chunks, _ = read_together(clips_of(path, [(8, 40), (20, 33)]), tmp_path)
    rgb, seconds = frames_of(chunks[1])
    np.testing.assert_allclose(seconds, np.arange(20, 33) / RATE, atol=1e-3)
    truth = np.stack([moving_picture(i) for i in range(60)]).astype(float)
    distance = np.abs(rgb.astype(float)[:, None] - truth[None]).mean(axis=(2, 3, 4))
    assert np.array_equal(distance.argmin(axis=1), np.arange(20, 33))


def frames_decoded(path, spans):
    """(frames that came out of the decoder, frames in the union of the spans)."""
    tally = Tally()
    tasks = [ClipTask(clip_index, clip) for clip_index, clip in enumerate(clips_of(path, spans))]
    for group in group_overlapping(tasks):
        clips = [task.clip for task in group.tasks]
        if len(clips) == 1:
            list(decode_clip(clips[0], path.parent, DecodeOptions(), tally))
            continue
        for _, step in decode_together(clips, path.parent, DecodeOptions(), tally):
            assert not isinstance(step, ClipError)
    return tally.num_frames, len(set().union(*(range(*each) for each in spans)))


def overlapping_spans(num_frames, count, longest, seed):
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, num_frames - longest, count)
    return [(int(s), int(s + rng.integers(2, longest))) for s in starts]


def test_what_spans_share_is_decoded_once(tmp_path):
    path = render_video(tmp_path / "a.mp4", 720, size=(32, 32), keyframe_every=12)
    spans = overlapping_spans(720, 60, 60, seed=0)
    assert sum(stop - start for start, stop in spans) > 2 * 720
    decoded, union = frames_decoded(path, spans)
    num_groups = len(
        group_overlapping([ClipTask(i, c) for i, c in enumerate(clips_of(path, spans))])
    )
    assert union <= decoded <= union + 15 * num_groups  # a group of pictures, and B-frames


@pytest.mark.slow
def test_two_hundred_spans_of_ten_minutes(tmp_path):
    """Few overlap, and many: each costs itself and at most a group of pictures."""
    path = render_video(tmp_path / "a.mp4", 600 * RATE, size=(320, 240), keyframe_every=24)
    for longest in (24, 120, 1200):
        spans = overlapping_spans(600 * RATE, 200, longest, seed=longest)
        decoded, union = frames_decoded(path, spans)
        print(f"{decoded} frames decoded, {union} in the union of spans up to {longest} frames")
        assert union <= decoded <= 1.2 * union + 24 * 200
        if longest > 24:
            assert decoded <= 1.2 * union


@pytest.mark.parametrize("extension", ["mp4", "mkv", "avi"])
def test_shards_do_not_depend_on_what_is_read_together(tmp_path, extension):
    """Also where the video is damaged, or of a container whose clips must be read alone."""
    codec = "mpeg4" if extension == "avi" else "libx264"
    whole = render_video(tmp_path / f"whole.{extension}", 150, codec=codec)
    damaged = tmp_path / f"damaged.{extension}"
    data = bytearray(whole.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    damaged.write_bytes(data)
    spans = [(0, 40), (10, 30), (35, 80), (70, 100), (90, 150), (120, 400), (500, 510)]
    clips = clips_of(whole, spans) + [
        Clip(f"damaged-{c.clip_id}", damaged.name, c.start_seconds, c.stop_seconds)
        for c in clips_of(damaged, spans)
    ]
    tasks = [ClipTask(clip_index, clip) for clip_index, clip in enumerate(clips)]
    groups = group_overlapping(tasks[: len(spans)]) + group_overlapping(tasks[len(spans) :])
    assert max(len(group.tasks) for group in groups) == 6
    pool = InProcessPool(WorkerOptions(tmp_path))
    found, failed = shards_of(pool, tasks, tmp_path / "together", groups)
    alone, failed_alone = shards_of(
        InProcessPool(WorkerOptions(tmp_path)), tasks, tmp_path / "alone"
    )
    assert found == alone and failed.keys() == failed_alone.keys()
    assert [failed[name].reason for name in failed] == [failed_alone[n].reason for n in failed]
    assert "clip-6" in failed and "clip-0" not in failed
    if extension == "mp4":
        ray = RayPool(WorkerOptions(tmp_path), num_decoders=1, num_flow_workers=1)
        found, failed = shards_of(ray, tasks, tmp_path / "ray", groups)
        assert found == alone and failed.keys() == failed_alone.keys()


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 15)).map(lambda s: (s[0], s[0] + s[1])),
        max_size=30,
    )
)
def test_groups_have_no_gaps_and_do_not_touch(spans):
    clips = [Clip(str(i), "a.mp4", float(a), float(b)) for i, (a, b) in enumerate(spans)]
    groups = group_overlapping(
        [ClipTask(clip_index, clip) for clip_index, clip in enumerate(clips)]
    )
    clip_indexes = [task.clip_index for group in groups for task in group.tasks]
    assert sorted(clip_indexes) == list(range(len(spans)))
    ends = []
    for group in groups:
        reached = None
        for start, stop in (task.clip.span for task in group.tasks):
            assert reached is None or start <= reached
            reached = max(stop, reached or stop)
        ends.append((group.tasks[0].clip.span[0], reached))
    assert all(before[1] < after[0] for before, after in pairwise(ends))


def calls_of_decoder(clips, folder, **options):
    """What each call of a Decoder returned, until all clips have ended."""
    decoder = Decoder(WorkerOptions(folder, **options))
    tasks = [ClipTask(clip_index, clip) for clip_index, clip in enumerate(clips)]
    results, given = [], group_overlapping(tasks)
    while given or results[-1].running is not None:
        results.append(decoder.next_batch(given)[0])
        given = given[results[-1].num_started :]
    return results


@pytest.mark.parametrize(
    ("extension", "codec", "spans"),
    [("avi", "mpeg4", [(640, 650)]), ("mpg", "mpeg2video", [(640, 650), (642, 652)])],
)
def test_a_decoder_answers_before_it_comes_to_a_late_span(tmp_path, extension, codec, spans):
    """The file must be read from its start. A decoder without an answer for long is killed."""
    path = render_video(tmp_path / f"a.{extension}", 660, size=(32, 32), codec=codec)
    clips = clips_of(path, spans)
    results = calls_of_decoder(clips, tmp_path)
    assert max(result.num_frames for result in results) <= BATCH_FRAMES + STEP_FRAMES
    assert sum(result.num_frames for result in results) >= 640
    events = [event for result in results for event in result.events]
    ended = [event.num_frames for event in events if isinstance(event, ClipDecoded)]
    assert ended == [stop - start for start, stop in spans]


def test_a_decoder_answers_while_it_transcodes(tmp_path):
    path = render_video(tmp_path / "a.mkv", 600, size=(32, 32), codec="ffv1")
    results = calls_of_decoder(
        [Clip("clip", path.name)],
        tmp_path,
        decode=DecodeOptions(scratch=tmp_path / "copies"),
        flow=FlowOptions(("motion-vectors",), residual=False),
    )
    assert [result.events for result in results[:2]] == [[], []], "512 frames were transcoded"
    assert results[0].running is not None
    events = [event for result in results for event in result.events]
    assert sum(event.num_frames for event in events if isinstance(event, ClipDecoded)) == 600
