"""From shards to batches: what is found, in which order, and that nothing depends on workers."""

import gc
import json
import os

import numpy as np
import pytest
import torch
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st
from shard_fixtures import without_fields, write_moving_squares
from training_fixtures import TINY_RECIPE

import train.clips.reader
from shared.grid import View, positions_inside, window_box
from shared.layout import DatasetLayout
from shared.manifest import ClassList, read_classes, read_manifest, write_manifest
from shared.moving_areas import moving_positions
from shared.randomness import counter_generator
from shared.scene import INSIDES, masked_counts
from shared.schema import MOVING_FIELDS
from shared.shards import ShardReader
from train.clips.reader import ClipReader, decode_jpeg
from train.clips.sampler import BatchPlan, StepSampler, epoch_order, steps_per_epoch
from train.clips.table import ClipTable, read_clip_table
from train.clips.view_rules import FRAME_RULES, dense, segments, view_places
from train.objectives.pixels import unstandardise
from train.options.config import EvaluateConfig, LoaderConfig
from train.options.recipe import finetune_config, pretrain_config, read_recipe
from train.samples.datasets import EvaluateDataset, FinetuneDataset, PretrainDataset
from train.samples.loading import make_loader, read_batches, to_device
from train.samples.views import StoredClip
from train.tables.typed import Choice

NO_WORKERS = LoaderConfig(workers=0)


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    return write_moving_squares(tmp_path_factory.mktemp("out"), num_clips=40, still=(0,))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return read_recipe("squares", path)


@pytest.fixture(scope="module")
def table(squares) -> ClipTable:
    return read_clip_table(squares, ["train"], boxes=True)


# ---------------------------------------------------------------------------------------------
# The table of clips
# ---------------------------------------------------------------------------------------------


def test_the_table_holds_the_clips_of_the_split(squares, table):
    clips = [clip for clip in read_manifest(squares.manifest) if clip.split == "train"]
    assert [table.clip_id(i) for i in range(len(table))] == [clip.clip_id for clip in clips]
    assert table.labels["label"].tolist() == [clip.label for clip in clips]
    assert set(table.labels["verb"]) == {-1}
    assert np.all(table.frames[:, 1] - table.frames[:, 0] == 16)


def test_taking_rows_keeps_them_together(table):
    some = table.take(np.array([5, 2]))
    assert len(some) == 2 and some.clip_id(1) == table.clip_id(2)
    assert some.labels["label"][0] == table.labels["label"][5]


@pytest.fixture
def own_squares(tmp_path) -> DatasetLayout:
    return write_moving_squares(tmp_path, num_clips=8, clips_per_shard=4)


def assert_refused(layout: DatasetLayout, code: str, *named: object, splits=("train",)) -> None:
    with refuses(code, *named):
        read_clip_table(layout, splits, boxes=True)


def test_missing_shards_name_the_goal(own_squares):
    (own_squares.boxes / "dataset.json").unlink()
    assert len(read_clip_table(own_squares, ["train"], boxes=False)) > 0
    assert_refused(own_squares, "not-finished", own_squares.boxes, own_squares.make("boxes"))
    (own_squares.frames / "dataset.json").unlink()
    assert_refused(own_squares, "not-finished", own_squares.frames, own_squares.make("flows"))


def test_shards_of_another_manifest_are_refused(own_squares):
    write_manifest(own_squares.manifest, read_manifest(own_squares.manifest)[:-1])
    assert_refused(own_squares, "other-manifest", own_squares.frames)


def test_frames_and_boxes_of_different_clips_are_refused(own_squares):
    index = json.loads((own_squares.boxes / "dataset.json").read_text())
    index["shards"] = index["shards"][:1]
    (own_squares.boxes / "dataset.json").write_text(json.dumps(index))
    assert_refused(own_squares, "other-clips", own_squares.boxes, own_squares.make("boxes"))


def test_a_shard_of_another_size_than_its_index_is_refused(own_squares):
    with open(own_squares.frames / "00001.h5", "ab") as stream:
        stream.write(b"\0")
    assert_refused(own_squares, "damaged-file", own_squares.frames / "00001.h5")


def test_a_split_without_clips_is_refused(own_squares):
    clips = read_manifest(own_squares.manifest)
    write_manifest(own_squares.manifest, [_with_split(clip, "train") for clip in clips])
    assert_refused(own_squares, "empty", own_squares.manifest, "test", splits=["test"])


def _with_split(clip, split):
    return type(clip)(**{**vars(clip), "split": split})


# ---------------------------------------------------------------------------------------------
# Order
# ---------------------------------------------------------------------------------------------


@given(
    shard=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 1000),
    window=st.integers(1, 8),
)
def test_an_epoch_is_a_permutation_that_reads_window_by_window(shard, seed, epoch, window):
    shard = np.sort(np.array(shard))
    order = epoch_order(shard, seed, epoch, window)
    assert sorted(order) == list(range(len(shard)))
    assert np.array_equal(order, epoch_order(shard, seed, epoch, window))
    seen = shard[order]
    first, last = (
        {number: places[0 if first else -1] for number, places in _places(seen).items()}
        for first in (True, False)
    )
    for place in range(len(seen)):
        open_shards = sum(first[n] <= place <= last[n] for n in first)
        assert open_shards <= window


def _places(seen: np.ndarray) -> dict[int, np.ndarray]:
    return {number: np.flatnonzero(seen == number) for number in np.unique(seen)}


def test_epochs_and_seeds_differ():
    shard = np.repeat(np.arange(5), 20)
    orders = [epoch_order(shard, seed, epoch, 2).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("first_step", [0, 3, 7])
def test_global_batches_do_not_depend_on_the_processes(world_size, first_step):
    shard = np.repeat(np.arange(4), 12)

    def batches(world_size, accumulation, first):
        plan = BatchPlan(8, world_size, accumulation)
        ranks = [
            list(StepSampler(shard, plan, rank, first, 15, 7, 2)) for rank in range(world_size)
        ]
        steps = zip(
            *(zip(*[iter(rank)] * accumulation, strict=True) for rank in ranks), strict=True
        )
        return [sorted(key for rank in step for part in rank for key in part) for step in steps]

    whole = batches(1, 1, 0)
    assert len(whole) == 15 and all(len(batch) == 8 for batch in whole)
    assert batches(world_size, 2, first_step) == whole[first_step:]


def test_an_epoch_shows_no_clip_twice():
    shard = np.repeat(np.arange(4), 10)
    keys = [
        key for batch in StepSampler(shard, BatchPlan(8, 1, 1), 0, 0, 10, 0, 2) for key in batch
    ]
    for epoch in (0, 1):
        clips = [index for of, index in keys if of == epoch]
        assert len(clips) == len(set(clips)) == 40
    with refuses("too-few-clips", 40, 41, "--batch-size 40"):
        steps_per_epoch(40, 41)


# ---------------------------------------------------------------------------------------------
# Frames
# ---------------------------------------------------------------------------------------------


@given(
    length=st.integers(1, 300),
    num_frames=st.integers(1, 32),
    stride=st.integers(1, 4),
    place=st.floats(0, 1, exclude_max=True),
)
def test_frame_rules_stay_in_the_clip(length, num_frames, stride, place):
    places = np.full(num_frames, place)
    for chosen in (
        dense(length, num_frames, places, stride=stride),
        segments(length, num_frames, places),
    ):
        assert len(chosen) == num_frames and np.all(np.diff(chosen) >= 0)
        assert 0 <= chosen[0] and chosen[-1] < length


def test_frame_rules_on_known_clips():
    assert dense(20, 4, np.zeros(4), stride=2).tolist() == [0, 2, 4, 6]
    assert dense(20, 4, np.full(4, 0.999), stride=2).tolist() == [13, 15, 17, 19]
    assert dense(5, 4, np.zeros(4), stride=4).tolist() == [0, 1, 3, 4]  # too short: spread evenly
    assert segments(16, 4, np.full(4, 0.5)).tolist() == [2, 6, 10, 14]
    assert segments(2, 4, np.zeros(4)).tolist() == [0, 0, 1, 1]
    assert [view_places("segments", s, 2, 1)[0] for s in (0, 1)] == [0.0, 0.5]
    starts = [dense(36, 4, view_places("dense", s, 5, 4), stride=5)[0] for s in range(5)]
    assert starts == [0, 5, 10, 15, 20]
    assert view_places("dense", 0, 1, 4).tolist() == view_places("segments", 0, 1, 4).tolist()
    assert set(FRAME_RULES) == {"dense", "segments"}


def test_frames_are_those_of_the_shard(squares, table):
    reader = ClipReader(table, max_open=2)
    shard = ShardReader(squares.frames / "00000.h5", "frames")
    jpegs = shard.ragged("/jpeg/offsets", "/jpeg/values", 0, 16)
    frames = reader.frames(0, np.array([1, 7, 15]), 1)
    assert sorted(frames) == [1, 7, 15]
    for number, frame in frames.items():
        assert np.array_equal(frame, decode_jpeg(jpegs[number], 1))
    boxes = ShardReader(squares.boxes / "00000.h5", "boxes")["/box/xyxy"]
    assert np.array_equal(reader.boxes(1, np.array([3, 4])), boxes[16 + 3 : 16 + 5])


def test_the_cache_changes_nothing_and_keeps_to_its_size(table):
    plain, cached = ClipReader(table, 2), ClipReader(table, 2, cache_bytes=500_000)
    for _ in range(2):
        for index in range(4):
            chosen = np.array([0, 3])
            for number, frame in plain.frames(index, chosen, 1).items():
                assert np.array_equal(frame, cached.frames(index, chosen, 1)[number])
    assert len(cached._cache) == 2  # of 196,608 bytes each


def test_of_clips_beyond_the_cache_only_the_frames_asked_for_are_decoded(table, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        train.clips.reader, "decode_jpeg", lambda *given: decoded.append(1) or decode_jpeg(*given)
    )
    cached, counts = ClipReader(table, 2, cache_bytes=500_000), []
    for index in (0, 1, 2, 0, 2, 3):
        decoded.clear()
        cached.frames(index, np.array([0, 3]), 1)
        counts.append(len(decoded))
    assert counts == [16, 16, 2, 0, 2, 2]


def test_few_shards_are_open_at_a_time(table):
    reader = ClipReader(table, max_open=2)
    for index in range(len(table)):
        reader.frames(index, np.array([0]), 1)
        reader.boxes(index, np.array([0]))
        assert max(len(shards._open) for shards in (reader._frames, reader._boxes)) <= 2


# ---------------------------------------------------------------------------------------------
# Samples
# ---------------------------------------------------------------------------------------------


def test_masks_hold_exact_counts_and_look_at_the_box(table, recipe):
    config = pretrain_config(recipe, "mofo", {"crop": {"kind": "centre"}, "flips": []})
    dataset = PretrainDataset(table, config, NO_WORKERS, seed=3)
    still = 0
    for index in range(len(table)):
        sample = dataset[0, index]
        assert sample["pixels"].shape == (1, 4, 32, 32, 3) and sample["pixels"].dtype == torch.uint8
        mask = sample["mask"].view(1, 2, 2, 2)
        assert mask.sum() == 4 and torch.equal(mask[:, 0], mask[:, 1])
        still += int(np.isnan(window_box(dataset.reader.boxes(index, np.arange(16)))).all())
    assert still == 1  # and it was masked like any other


def test_a_cached_clip_is_cut_as_one_that_is_not(tmp_path):
    """Whatever the crop: small ones are of whole frames, large ones of frames decoded smaller."""
    layout = write_moving_squares(tmp_path, num_clips=5, num_frames=4, size=(160, 160))
    table = read_clip_table(layout, ["train"], False)
    readers = ClipReader(table, 2), ClipReader(table, 2, cache_bytes=10**8)
    chosen = np.arange(2)
    for reduction in (1, 2, 1, 4):
        plain, cached = (reader.frames(0, chosen, reduction) for reader in readers)
        for number in chosen:
            assert np.array_equal(plain[int(number)], cached[int(number)]), reduction
    assert len(readers[1]._cache) == 1


def test_samples_depend_on_seed_epoch_and_view_alone(table, recipe):
    config = pretrain_config(recipe, "mofo", {"repeats": 2})
    first, second = (PretrainDataset(table, config, NO_WORKERS, seed=3) for _ in range(2))
    second[1, 7]  # what was read before does not matter
    for name, values in first[5, 2].items():
        assert torch.equal(values, second[5, 2][name])
    other_epoch, other_seed = first[6, 2], PretrainDataset(table, config, NO_WORKERS, 4)[5, 2]
    assert not torch.equal(first[5, 2]["pixels"], other_epoch["pixels"])
    assert not torch.equal(first[5, 2]["pixels"], other_seed["pixels"])
    views = first[5, 2]["pixels"]
    assert len(views) == 2 and not torch.equal(views[0], views[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(table, recipe, workers):
    config = pretrain_config(recipe, "mofo")

    def batches(loader):
        order = StepSampler(table.shard, BatchPlan(6, 1, 2), 0, 1, 4, 0, 2)
        return list(make_loader(PretrainDataset(table, config, loader, 0), order, loader, False))

    alone, shared = batches(NO_WORKERS), batches(LoaderConfig(workers=workers))
    assert len(alone) == 6
    for one, other in zip(alone, shared, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_damage_found_by_a_worker_is_one_line(own_squares, recipe):
    table = read_clip_table(own_squares, ["train"], boxes=True)
    path = own_squares.frames / "00000.h5"
    with ShardReader(path, "frames") as reader:
        values = reader.rows("/jpeg/values", 0, 64).tobytes()
    data = bytearray(path.read_bytes())
    data[data.find(values) + 20] ^= 4
    path.write_bytes(bytes(data))
    config, loader = pretrain_config(recipe, "mofo"), LoaderConfig(workers=1)
    order = StepSampler(table.shard, BatchPlan(5, 1, 1), 0, 0, 1, 0, 2)
    batches = make_loader(PretrainDataset(table, config, loader, 0), order, loader, False)
    with refuses("damaged-file", path) as caught:
        list(read_batches(batches))
    assert "\n" not in caught.value.message


def test_flipped_clips_have_the_other_label(squares, table, recipe):
    plain = {"crop": {"kind": "centre"}, "augment": {"rand_layers": 0, "erase_probability": 0.0}}
    config = finetune_config(recipe, "mca", plain)
    classes = read_classes(squares.classes)
    dataset = FinetuneDataset(table, classes, config, NO_WORKERS, seed=0)
    test = EvaluateDataset(table, config.model, config.frames, EvaluateConfig(), NO_WORKERS)
    flipped = 0
    for index in range(1, len(table)):
        sample, straight = dataset[0, index], test[index]
        label = int(table.labels["label"][index])
        image = sample["pixels"][0].float().mean(dim=0)
        ways = [straight["pixels"][0].float().mean(dim=0), None]
        ways[1] = ways[0].flip(1)
        nearest = int(np.argmin([float((image - way).abs().mean()) for way in ways]))
        assert int(sample["label"]) == (classes.flip_x[label] if nearest else label)
        flipped += nearest
    assert 0 < flipped < len(table) - 1


def test_inside_tokens_are_where_the_square_is(table, recipe):
    config = finetune_config(recipe, "mca")
    model = config.model
    dataset = EvaluateDataset(table, model, config.frames, EvaluateConfig(), NO_WORKERS)
    for index in range(1, 12):
        sample = dataset[index]
        inside = sample["inside"].view(2, 2, 2)
        clip = StoredClip(table, index, dataset.reader, model)
        frames = clip.test_views(config.frames, EvaluateConfig())[0].frames
        x1, y1, x2, y2 = window_box(dataset.reader.boxes(index, frames)) / 2  # 64 px to 32 px
        for row in range(2):
            for column in range(2):
                centre = (column * 16 + 8, row * 16 + 8)
                expected = x1 <= centre[0] < x2 and y1 <= centre[1] < y2
                assert inside[0, row, column] == inside[1, row, column] == bool(expected)


def test_inside_tokens_may_be_those_of_each_tubelet(table, recipe):
    """4-pixel patches: the square leaves its place between two frames that are far apart."""
    changes = {"model": {"patch_size": 4}, "head": {"kind": "mca", "box": "tubelet"}}
    config = finetune_config(recipe, "mca", changes)
    views = (table, config.model, config.frames, EvaluateConfig(), NO_WORKERS)
    of_clip, of_tubelet = (EvaluateDataset(*views, box) for box in ("clip", "tubelet"))
    for index in range(1, 12):
        whole, own = (each[index]["inside"].view(2, 8, 8) for each in (of_clip, of_tubelet))
        clip = StoredClip(table, index, of_clip.reader, config.model)
        frames = clip.test_views(config.frames, EvaluateConfig())[0].frames
        for step in range(2):
            boxes = of_clip.reader.boxes(index, frames[2 * step : 2 * step + 2])
            expected = positions_inside(window_box(boxes) / 2, (32, 32), 4)
            assert np.array_equal(own[step], expected)
        assert not torch.equal(own[0], own[1]) and not torch.equal(own, whole)
    trained = FinetuneDataset(
        table, ClassList(list("lrud"), flip_x=[1, 0, 2, 3]), config, NO_WORKERS, seed=0
    )
    inside = trained[0, 3]["inside"].view(2, 64)
    assert not torch.equal(inside[0], inside[1])


def test_inside_may_be_the_positions_that_move(table, recipe):
    """The left half of the square moves; its box is the whole square. 4-pixel patches."""
    changes = {"model": {"patch_size": 4}, "head": {"kind": "mca", "inside": "positions"}}
    config = finetune_config(recipe, "mca", changes)
    views = (table, config.model, config.frames, EvaluateConfig(), NO_WORKERS)
    boxes, moving = (EvaluateDataset(*views, inside=inside) for inside in INSIDES)
    for index in range(1, 12):
        boxed, moves = (each[index]["inside"].view(2, 8, 8) for each in (boxes, moving))
        clip = StoredClip(table, index, moving.reader, config.model)
        frames = clip.test_views(config.frames, EvaluateConfig())[0].frames
        areas = moving.reader.areas(index, frames)
        view = View((0.0, 0.0, 64.0, 64.0), (32, 32))
        assert np.array_equal(moves[0], moving_positions(areas, view, (64, 64), 4))
        assert torch.equal(moves[0], moves[1])
        assert 0 < moves.sum() and not torch.equal(moves, boxed)
    labels = ClassList(list("lrud"), flip_x=[1, 0, 2, 3])
    trained = FinetuneDataset(table, labels, config, NO_WORKERS, seed=0)
    assert 0 < trained[0, 3]["inside"].sum() < 64


def test_a_mask_of_positions_hides_its_share_of_what_moves(table, recipe):
    changes = {"model": {"patch_size": 4}, "mask": {"inside": "positions"}}
    config = pretrain_config(recipe, "mofo", changes)
    dataset = PretrainDataset(table, config, NO_WORKERS, seed=0)
    for index in range(1, 6):
        mask = dataset[0, index]["mask"][0].view(2, 64).numpy()
        clip = StoredClip(table, index, dataset.reader, config.model)
        rng = counter_generator(0, 0, clip.clip_id, 0, "view")
        moves = clip.moving(clip.random_view(config, rng)[0]).ravel()
        total, inside = masked_counts(64, int(moves.sum()), 0.5, 0.75)
        assert mask[0].sum() == total and mask[0][moves].sum() == inside


def test_boxes_of_an_earlier_version_say_how_to_add_what_moves(tmp_path, recipe):
    layout = write_moving_squares(tmp_path, num_clips=5)
    without_fields(layout.boxes / "00000.h5", MOVING_FIELDS)
    table = read_clip_table(layout, ["train"], boxes=True)
    config = pretrain_config(recipe, "mofo")
    assert PretrainDataset(table, config, NO_WORKERS, seed=0)[0, 1]["mask"].any()
    config = pretrain_config(recipe, "mofo", {"mask": {"inside": "positions"}})
    command = f"`make boxes DATASET=squares OUT={tmp_path} ARGS=--overwrite`"
    with refuses("missing-data", "boxes/00000.h5", "positions", command):
        PretrainDataset(table, config, NO_WORKERS, seed=0)


def test_evaluation_shows_every_segment_and_crop(tmp_path, recipe):
    layout = write_moving_squares(tmp_path, num_clips=8, size=(96, 64))
    table = read_clip_table(layout, ["train"], boxes=False)
    config = finetune_config(recipe, "mean")
    views = EvaluateConfig(segments=2, crops=3)
    dataset = EvaluateDataset(table, config.model, config.frames, views, NO_WORKERS)
    sample = dataset[0]
    assert sample["pixels"].shape == (6, 4, 32, 32, 3) and sample["index"].tolist() == [0]
    assert len({view.numpy().tobytes() for view in sample["pixels"]}) == 6
    assert not sample["inside"].any()  # no boxes were asked for


def test_windows_of_an_evaluation_may_start_on_the_grid_of_the_stride(table, recipe):
    config = finetune_config(recipe, "mean")
    loader = LoaderConfig(workers=0)
    found = {}
    for starts in ("frame", "stride"):
        views = EvaluateConfig("test", 3, 1, starts)
        rule = Choice("dense", {"stride": 2})
        dataset = EvaluateDataset(table, config.model, rule, views, loader)
        clip = StoredClip(table, 0, dataset.reader, config.model)
        found[starts] = [int(view.frames[0]) for view in clip.test_views(rule, views)]
    assert all(start % 2 == 0 for start in found["stride"]) and found["stride"] != found["frame"]
    with refuses("option-unused", "starts", "segments"):
        clip.test_views(Choice("segments", {}), views)


def test_pixels_arrive_standardised(table, recipe):
    config = pretrain_config(recipe, "videomae")
    sample = PretrainDataset(table, config, NO_WORKERS, 0)[0, 0]
    batch = to_device(dict(sample), torch.device("cpu"))
    assert batch["clips"].shape == (1, 3, 4, 32, 32) and "pixels" not in batch
    back = unstandardise(batch["clips"])[0].permute(1, 2, 3, 0) * 255
    assert torch.allclose(back, sample["pixels"][0].float(), atol=1e-3)


class _Garbage:
    """An object that only the garbage collector can delete, and that notes in which process."""

    def __init__(self, note):
        self.itself, self.note = self, note

    def __del__(self):
        self.note.write_text(str(os.getpid()))


def test_a_forked_worker_collects_no_garbage_of_its_parent(tmp_path):
    note = tmp_path / "note"
    gc.disable()
    try:
        _Garbage(note)
        worker = os.fork()
        if worker == 0:
            gc.collect()
            os._exit(0)
        assert os.waitpid(worker, 0)[1] == 0
        assert not note.exists()
    finally:
        gc.enable()
    gc.collect()
    assert note.read_text() == str(os.getpid())
