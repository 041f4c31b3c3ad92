"""Shards in object storage: the same as on disk, and nothing is lost when requests fail.

The S3 server is moto's, on loopback; each request goes through a proxy that can break it.
"""

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from dataset_fixtures import checksums, copy_of, make_dataset, run_boxes, run_flows
from errors import refused, refuses
from object_fixtures import BUCKET, faults, s3_port  # noqa: F401 (fixtures)

import shared.object_store as object_store
from shared.layout import DatasetLayout
from shared.mirror import address_of, local_folder, shown, stored_address
from shared.mirror_room import LIMIT_VARIABLE, limit_bytes
from shared.mirror_sync import pull
from shared.shard_cache import local_shard
from shared.shards import ShardReader

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(f"s3://{BUCKET}/path")
SHARDS = ["00000.h5", "00001.h5", "00002.h5"]


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory) -> DatasetLayout:
    """Six clips in three shards, in an ordinary folder."""
    layout = make_dataset(tmp_path_factory.mktemp("disk") / "out")
    assert run_flows(layout, "--clips-per-shard", 2).exit_code == 0
    assert run_boxes(layout, "--workers", 1).exit_code == 0
    return layout


def in_store(name: str) -> dict[str, bytes]:
    """The content of the objects of a folder of the dataset, by name."""
    store = object_store._store()
    found = store.find(f"{BUCKET}/path/rendered/{name}")
    return {path.rpartition("/")[2]: store.cat_file(path) for path in found}


def another_machine(monkeypatch, tmp_path, name="there") -> DatasetLayout:
    """The dataset as a machine sees it that has nothing of it yet."""
    monkeypatch.setenv("MOFO_MIRROR", str(tmp_path / name))
    return DatasetLayout(OUT, "rendered")


def upload(on_disk: DatasetLayout) -> DatasetLayout:
    """The finished dataset, put into the store as a user would copy it there."""
    store = object_store._store()
    for path in on_disk.root.rglob("*"):
        address = f"{BUCKET}/path/rendered/{path.relative_to(on_disk.root)}"
        if path.is_file() and "videos" not in path.parts:
            store.put_file(str(path), address)
    return DatasetLayout(OUT, "rendered")


def make_there(on_disk: DatasetLayout) -> DatasetLayout:
    """The dataset without shards in the store."""
    layout = DatasetLayout(OUT, "rendered")
    layout.root.mkdir(parents=True)
    shutil.copytree(on_disk.videos, layout.videos)
    object_store.put(on_disk.manifest, address_of(layout.manifest))
    pull.cache_clear()
    return DatasetLayout(OUT, "rendered")


# ------------------------------------------------------------------------------------ addresses


def test_addresses_of_out(monkeypatch, tmp_path):
    monkeypatch.setenv("MOFO_MIRROR", str(tmp_path))
    folder = local_folder(Path("s3://bucket/a/b"))
    assert folder == tmp_path / "s3.mirror" / "bucket" / "a" / "b"
    assert local_folder(folder) == folder and address_of(folder) == "bucket/a/b"
    assert shown(folder / "toy") == "s3://bucket/a/b/toy"
    for ordinary in ("out", "/data/out", "s3", "c:/data", "out/s3:/b"):
        assert local_folder(Path(ordinary)) == Path(ordinary)
        assert address_of(Path(ordinary)) is None and shown(Path(ordinary)) == ordinary
    for here in ("runs/mofo/options.json", ".lock", ".first-shard/00000.h5", "videos/a.mp4"):
        assert stored_address(folder / "toy" / here) is None
    for there in ("manifest.csv", "frames/00000.h5", "flows/.journal.jsonl"):
        assert stored_address(folder / "toy" / there) == f"bucket/a/b/toy/{there}"


def test_make_knows_what_is_in_the_bucket(on_disk, faults):  # noqa: F811
    can_pull = subprocess.run([ROOT / ".venv/bin/python", "-c", "import s3fs"], capture_output=True)
    if can_pull.returncode:
        pytest.skip("the extra s3 is not installed in .venv")
    upload(on_disk)
    asked = ["make", "-n", "pretrain", "DATASET=rendered", f"OUT=s3://{BUCKET}/path"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "train.pretrain" in done.stdout and "preprocess" not in done.stdout


@pytest.mark.parametrize("out", ["s3://", "gs://bucket/path", "s3://bucket/../other"])
def test_addresses_that_are_refused(out):
    with refuses("unsafe-path", "s3://bucket/path is allowed"):
        local_folder(Path(out))


@pytest.mark.parametrize(
    ("out", "dataset", "part"),
    [
        ("s3://videos/path", "toy", "videos"),
        ("s3://bucket/runs/path", "toy", "runs"),
        ("s3://bucket/a/.hidden", "toy", ".hidden"),
        ("s3://bucket/path", "annotations", "annotations"),
    ],
)
def test_addresses_where_nothing_would_be_stored_are_refused(out, dataset, part):
    with refuses("unsafe-path", repr(part), "choose another"):
        DatasetLayout(Path(out), dataset)
    assert DatasetLayout(Path("out") / part, "truth").root == Path("out") / part / "truth"


@pytest.mark.parametrize("given", ["0", "-1", "many", "nan", "inf"])
def test_a_limit_that_is_no_size_is_refused(given, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, given)
    with refuses("bad-setting", LIMIT_VARIABLE, given):
        limit_bytes()


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    monkeypatch.setenv("MOFO_MIRROR", str(tmp_path))
    with refuses("missing-package", "s3fs", ".[s3]"):
        DatasetLayout(Path("s3://bucket/not-yet-pulled"), "toy")


# ------------------------------------------------------------------- writing and reading shards


def test_flows_boxes_and_verify_as_on_disk(on_disk, faults, monkeypatch, tmp_path):  # noqa: F811
    from click.testing import CliRunner

    from preprocess.verify import main as verify

    layout = make_there(on_disk)
    done = run_flows(layout, "--clips-per-shard", 2)
    assert done.exit_code == 0, done.output
    done = run_boxes(layout, "--workers", 1)
    assert done.exit_code == 0, done.output
    for name in ("frames", "flows", "boxes"):
        kept = in_store(name)
        kept.pop("options.json", None)
        expected = {path.name: path.read_bytes() for path in (on_disk.root / name).glob("[!.]*")}
        expected.pop("options.json", None)
        assert kept == expected, name
    assert "reuse" in run_flows(layout, "--clips-per-shard", 2).output

    other = another_machine(monkeypatch, tmp_path)
    assert not list(other.root.rglob("*.h5")) and other.manifest.is_file()
    done = CliRunner().invoke(
        verify, ["--dataset", "rendered", "--out", str(OUT), "--workers", "1"]
    )
    assert done.exit_code == 0 and "No problem was found." in done.output, done.output


def test_faults_while_shards_are_written_lose_nothing(on_disk, faults):  # noqa: F811
    layout = make_there(on_disk)
    broken = {
        "frames/00000.h5": "cut",
        "frames/00001.h5": "503",
        "flows/00001.h5": "wrong",
        "flows/00002.h5": "slow",
        "frames/dataset.json": "cut",
        "flows/dataset.json": "wrong",
    }
    for path, fault in broken.items():
        faults.add("PUT", path, fault)
    done = run_flows(layout, "--clips-per-shard", 2)
    assert done.exit_code == 0, done.output
    assert sorted(faults.met) == sorted(broken.values())
    assert "trying again to put s3://clips/path/rendered/flows/00001.h5" in done.output
    assert checksums(on_disk.frames) == checksums(layout.frames)
    assert checksums(on_disk.flows) == checksums(layout.flows)
    assert in_store("frames") == {p.name: p.read_bytes() for p in on_disk.frames.glob("[!.]*")}


def test_faults_while_shards_are_read(on_disk, faults):  # noqa: F811
    layout = upload(on_disk)
    broken = {"frames/00000": "cut", "frames/00001": "503", "boxes/00000": "wrong"}
    for path, fault in {**broken, "boxes/00001": "slow"}.items():
        faults.add("GET", path, fault)
    for folder in (layout.frames, layout.boxes):
        for name in SHARDS:
            path = local_shard(folder / name)
            assert path.read_bytes() == (on_disk.root / folder.name / name).read_bytes()
    assert sorted(faults.met) == ["503", "cut", "slow", "wrong"]
    assert not list(layout.root.rglob("*.tmp"))


def test_a_store_that_stays_away_is_named_and_the_run_continues(on_disk, faults):  # noqa: F811
    layout = make_there(on_disk)
    faults.add("PUT", "flows/00001.h5", *["503"] * 7)
    done = run_flows(layout, "--clips-per-shard", 2)
    refused(done, "service-refused", "s3://clips/path/rendered/flows/00001.h5", "tried 7 times")
    assert "dataset.json" not in in_store("flows")
    pull.cache_clear()
    done = run_flows(layout, "--clips-per-shard", 2)
    assert done.exit_code == 0 and "continuing: 1 of 3 shards" in done.output, done.output
    assert checksums(on_disk.flows) == checksums(layout.flows)


def test_another_machine_continues_a_run(on_disk, faults, monkeypatch, tmp_path):  # noqa: F811
    layout = make_there(on_disk)
    faults.add("PUT", "flows/00002.h5", *["503"] * 7)
    assert run_flows(layout, "--clips-per-shard", 2).exit_code == 1
    videos = layout.videos
    other = another_machine(monkeypatch, tmp_path)
    done = run_flows(other, "--clips-per-shard", 2, "--videos", videos)
    assert done.exit_code == 0 and "continuing: 2 of 3 shards" in done.output, done.output
    put = [path for method, path in faults.requests if method == "PUT" and "00000.h5" in path]
    assert len(put) == 2  # frames and flows, by the first machine alone
    for name in ("frames", "flows"):
        expected = checksums(on_disk.root / name)
        kept = {key: value for key, value in in_store(name).items() if key.endswith(".h5")}
        assert kept == {n: (on_disk.root / name / n).read_bytes() for n in expected if "h5" in n}


@pytest.mark.slow
def test_parts_on_several_machines(on_disk, faults, monkeypatch, tmp_path):  # noqa: F811
    videos = make_there(on_disk).videos
    for machine, options in {
        "a": ["--part", "1/2"],
        "b": ["--part", "2/2"],
        "c": ["--finish"],
    }.items():
        layout = another_machine(monkeypatch, tmp_path, machine)
        done = run_flows(layout, "--clips-per-shard", 2, "--videos", videos, *options)
        assert done.exit_code == 0, done.output
    for name in ("frames", "flows"):
        kept = {key: value for key, value in in_store(name).items() if key.endswith(".h5")}
        assert kept == {n: (on_disk.root / name / n).read_bytes() for n in SHARDS}
    assert not [name for name in in_store("flows") if "journal" in name]


def test_wrong_bytes_in_the_store_are_refused(on_disk, faults):  # noqa: F811
    layout = upload(on_disk)
    store = object_store._store()
    content = bytearray((on_disk.frames / SHARDS[0]).read_bytes())
    content[len(content) // 2] ^= 1
    store.pipe_file(f"{BUCKET}/path/rendered/frames/{SHARDS[0]}", bytes(content))
    with refuses("damaged-file", f"s3://{BUCKET}/path/rendered/frames/{SHARDS[0]}", "3 attempts"):
        local_shard(layout.frames / SHARDS[0])
    assert not (layout.frames / SHARDS[0]).exists()


@pytest.mark.slow
def test_verify_finds_and_repairs_bad_objects(on_disk, faults):  # noqa: F811
    from click.testing import CliRunner

    from preprocess.verify import main as verify

    layout = make_there(on_disk)
    assert run_flows(layout, "--clips-per-shard", 2).exit_code == 0
    assert run_boxes(layout, "--workers", 1).exit_code == 0
    store = object_store._store()
    address = f"{BUCKET}/path/rendered"
    store.pipe_file(f"{address}/frames/{SHARDS[1]}", b"other bytes")
    store.rm_file(f"{address}/boxes/{SHARDS[2]}")
    asked = ["--dataset", "rendered", "--out", str(OUT), "--workers", "1"]
    done = CliRunner().invoke(verify, asked)
    assert done.exit_code == 1 and "2 bad shards" in done.output, done.output
    assert "has 11 bytes" in done.output and "does not exist" in done.output
    pull.cache_clear()
    done = CliRunner().invoke(verify, [*asked, "--repair", "--pool", "in-process"])
    assert done.exit_code == 0, done.output
    for name in ("frames", "flows", "boxes"):
        kept = {key: value for key, value in in_store(name).items() if key.endswith(".h5")}
        assert kept == {n: (on_disk.root / name / n).read_bytes() for n in SHARDS}


# --------------------------------------------------------------------------- the bounded cache


def test_the_cache_keeps_its_limit(on_disk, faults, monkeypatch):  # noqa: F811
    layout = upload(on_disk)
    largest = max((on_disk.frames / name).stat().st_size for name in SHARDS)
    monkeypatch.setenv(LIMIT_VARIABLE, str(2 * largest / 1e9))
    for name in [*SHARDS, *SHARDS]:
        local_shard(layout.frames / name)
        held = sum(path.stat().st_size for path in layout.root.rglob("*.h5"))
        assert held <= limit_bytes()
    assert len(list(layout.root.rglob("*.h5"))) == 2


@pytest.mark.parametrize("key", ["../escaped.json", "/etc/x.json", "a/../../x.json", "a/b/c.json"])
def test_keys_that_lead_elsewhere_are_left_alone(key, faults, tmp_path):  # noqa: F811
    store = object_store._store()
    store.call_s3("put_object", Bucket=BUCKET, Key=f"path/rendered/{key}", Body=b"x")
    store.call_s3("put_object", Bucket=BUCKET, Key="path/rendered/classes.json", Body=b"{}")
    layout = DatasetLayout(OUT, "rendered")
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name[0] != "."]
    assert files == [layout.classes]


@pytest.mark.slow
def test_what_another_machine_replaced_is_fetched_again(on_disk, faults, tmp_path):  # noqa: F811
    layout = upload(on_disk)
    for name in SHARDS:
        local_shard(layout.frames / name)
    changed = copy_of(on_disk, tmp_path / "changed")
    assert (
        run_flows(changed, "--clips-per-shard", 2, "--jpeg-quality", 40, "--overwrite").exit_code
        == 0
    )
    pull.cache_clear()
    upload(changed)
    assert not list(layout.frames.glob("*.h5"))
    with ShardReader(layout.frames / SHARDS[0], "frames") as shard:
        assert shard.attributes["jpeg_quality"] == 40


def test_heads_are_read_without_the_rest(on_disk, faults):  # noqa: F811
    layout = upload(on_disk)
    with (
        ShardReader(layout.frames / SHARDS[0], "frames", partly=True) as shard,
        ShardReader(on_disk.frames / SHARDS[0], "frames") as expected,
    ):
        np.testing.assert_array_equal(shard["/clip/frames"], expected["/clip/frames"])
    assert not list(layout.frames.glob("*.h5"))


# ------------------------------------------------------------------------------------- training


def batches_of(layout: DatasetLayout, workers: int) -> list[dict]:
    from train.clips.sampler import BatchPlan, StepSampler
    from train.clips.table import read_clip_table
    from train.options.config import LoaderConfig
    from train.options.recipe import pretrain_config, read_recipe
    from train.samples.datasets import PretrainDataset
    from train.samples.loading import make_loader, read_batches
    from train.samples.prefetch import with_prefetching

    table = read_clip_table(layout, ["train"], boxes=True)
    model = {"image_size": 32, "num_frames": 4, "tubelet_size": 2, "patch_size": 8}
    config = pretrain_config(read_recipe("toy", None), "mofo", {"model": model})
    loader = LoaderConfig(workers=workers, open_shards=1)
    order = StepSampler(table.shard, BatchPlan(2, 1, 1), 0, 0, 5, 0, window_shards=1)
    dataset = PretrainDataset(table, config, loader, seed=0)
    return list(read_batches(make_loader(dataset, with_prefetching(table, order), loader, False)))


def same(one: list[dict], other: list[dict]) -> bool:
    return len(one) == len(other) and all(
        (a[name] == b[name]).all() for a, b in zip(one, other, strict=True) for name in a
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_from_disk(workers, on_disk, faults, monkeypatch):  # noqa: F811
    layout = upload(on_disk)
    largest = max((on_disk.frames / name).stat().st_size for name in SHARDS)
    monkeypatch.setenv(LIMIT_VARIABLE, str(2.5 * largest / 1e9))  # less than one epoch needs
    for path, fault in {
        "frames/00000": "cut",
        "boxes/00001": "503",
        "frames/00002": "wrong",
    }.items():
        faults.add("GET", path, fault)
    assert same(batches_of(layout, workers), batches_of(on_disk, 0))
    assert sum(path.stat().st_size for path in layout.root.rglob("*.h5")) <= limit_bytes()
    assert len(faults.met) == 3


def test_shards_come_in_the_order_of_the_batches(on_disk, faults):  # noqa: F811
    from train.clips.table import read_clip_table
    from train.samples.prefetch import PrefetchedShards

    layout = upload(on_disk)
    table = read_clip_table(layout, ["train"], boxes=True)
    faults.requests.clear()
    batches = iter(PrefetchedShards(table, [[(0, 4)], [(0, 1), (0, 5)], [(0, 2)]]))
    assert next(batches) == [(0, 4)]
    wait_for(lambda: len(list(layout.root.rglob("*.h5"))) == 6)
    got = [path.split("rendered/")[1] for method, path in faults.requests if method == "GET"]
    numbers = [int(path.split("/")[1][:5]) for path in got if path.startswith("frames")]
    assert numbers == [2, 0, 1]
    assert list(batches) == [[(0, 1), (0, 5)], [(0, 2)]]


def test_prefetching_stops_where_there_is_no_room(on_disk, faults, monkeypatch):  # noqa: F811
    from train.clips.table import read_clip_table
    from train.samples.prefetch import PrefetchedShards

    layout = upload(on_disk)
    table = read_clip_table(layout, ["train"], boxes=False)
    size = (on_disk.frames / SHARDS[1]).stat().st_size
    monkeypatch.setenv(LIMIT_VARIABLE, str(2 * size / 1e9))
    batches = iter(PrefetchedShards(table, [[0], [2], [4]]))
    next(batches)
    wait_for((layout.frames / SHARDS[1]).exists)
    time.sleep(0.3)
    assert not (layout.frames / SHARDS[2]).exists()
    next(batches)
    wait_for((layout.frames / SHARDS[2]).exists)
    batches.close()


def wait_for(holds) -> None:
    """Wait until something holds, which a thread brings about."""
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it does not come about")


def test_disk_is_read_as_ever(on_disk):
    from train.clips.table import read_clip_table
    from train.samples.prefetch import with_prefetching

    batches = [[0], [1]]
    assert with_prefetching(read_clip_table(on_disk, ["train"], boxes=False), batches) is batches
