"""RayPool and its assemblers lose machines at random moments: no clip is lost, no byte differs.

Ray's answers are given in this process (tests/ray_in_process.py); everything else is real.
tests/test_cluster.py does the same with a real cluster.
"""

import errno

import pytest
from dataset_fixtures import checksums, make_dataset, run_flows
from errors import refused
from ray_in_process import RayInProcess, losses

from preprocess.flow_run import decode_step, ray_crew, ray_pool
from preprocess.flow_run.messages import DecodeResult
from shared.layout import DatasetLayout
from shared.run_record import read_jsonl
from shared.shard_index import read_index

KINDS = ("frames", "flows")
PLAIN = ("--clips-per-shard", 3, "--flow-short-side", 16, "--map-short-side", 8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> DatasetLayout:
    """12 clips, of which one is no video and two have several chunks of frames."""
    layout = make_dataset(tmp_path_factory.mktemp("finished"), num_clips=12, num_frames=4)
    (layout.videos / "4.mp4").write_bytes(b"not a video")
    assert run_flows(layout, *PLAIN).exit_code == 3
    return layout


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """Runs flows on a Ray in this process: (result, layout, ray)."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    monkeypatch.setattr(ray_crew, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(ray_pool, "TEND_SECONDS", 0.01)

    def run_on(ray: RayInProcess, *more: object):
        layout = DatasetLayout(tmp_path / str(len(list(tmp_path.iterdir()))), finished.dataset)
        layout.root.mkdir(parents=True)
        layout.videos.symlink_to(finished.videos)
        layout.manifest.write_bytes(finished.manifest.read_bytes())
        monkeypatch.setattr(ray_pool, "connect_to_cluster", lambda: ray)
        counts = ("--decoders", 2, "--flow-workers", 2)
        return run_flows(layout, *PLAIN, *counts, *more, pool="ray"), layout

    return run_on


def check_same(layout: DatasetLayout, finished: DatasetLayout) -> None:
    assert read_jsonl(layout.failures) == read_jsonl(finished.failures)
    for kind in KINDS:
        assert checksums(layout.root / kind) == checksums(finished.root / kind)
    assert not (layout.root / ".leases").exists()


@pytest.mark.parametrize("writers", [0, 1, 2])
def test_nothing_is_lost_on_a_quiet_cluster(finished, run, writers):
    done, layout = run(RayInProcess(), "--shard-writers", writers)
    assert done.exit_code == 3, done.output
    check_same(layout, finished)


@pytest.mark.parametrize("writers", [0, 2])
@pytest.mark.parametrize("seed", range(8))
def test_machines_that_are_lost_cost_no_clip(finished, run, seed, writers):
    """Three at most, so that no clip can be blamed for them."""
    done, layout = run(RayInProcess(losses(seed, 3)), "--shard-writers", writers)
    assert done.exit_code == 3, done.output
    check_same(layout, finished)


def test_a_full_disk_of_a_machine_ends_the_run_and_blames_no_clip(run, monkeypatch):
    def decode_steps(clip, *rest):
        if clip.clip_id == "clip-7":
            raise OSError(errno.ENOSPC, "No space left on device", "/scratch/copy.mp4")
        return real(clip, *rest)

    real = decode_step.decode_steps
    with monkeypatch.context() as patch:
        patch.setattr(decode_step, "decode_steps", decode_steps)
        done, layout = run(RayInProcess(), "--shard-writers", 0)
    refused(done, "no-space", "/scratch/copy.mp4")
    assert "clip-7" not in [record["clip_id"] for record in read_jsonl(layout.failures)]
    assert read_index(layout.flows) is None


def test_a_clip_is_blamed_when_every_machine_with_it_is_lost(run):
    """Else a clip that fills the memory of its machine would be tried for ever."""

    def lose_decoders(ray):
        for answer in list(ray.answers):
            if isinstance(answer.value, DecodeResult):
                ray.lose(answer.handle)

    done, layout = run(RayInProcess(lose_decoders), "--shard-writers", 0)
    assert done.exit_code == 3, done.output
    reasons = {failure["code"] for failure in read_jsonl(layout.failures)}
    assert reasons == {"worker-lost"} and len(read_jsonl(layout.failures)) == 12
