"""Every flow source: one interface, the same errors, and flow of the right sign and size."""

import os
import pickle

import cv2
import numpy as np
import pytest
import torch
from errors import refuses

from preprocess.flow.raft import RaftFlow
from preprocess.flow.sources import (
    DIS_PRESETS,
    SOURCES,
    DisOptions,
    RaftOptions,
    Tvl1Options,
    make_source,
    parse_sources,
)
from shared.randomness import counter_generator

SHIFT = (2.0, -1.0)  # px, right and up


def texture(height: int, width: int) -> np.ndarray:
    noise = counter_generator("flow sources").normal(size=(height, width))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0) + 0.3 * cv2.GaussianBlur(noise, (0, 0), 1.0)
    return np.clip(128 + 200 * smooth / np.abs(smooth).max(), 0, 255).astype(np.uint8)


def shifted_pair(height: int = 96, width: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    first = texture(height, width)
    matrix = np.array([[1, 0, SHIFT[0]], [0, 1, SHIFT[1]]])
    second = cv2.warpAffine(first, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(first)[None], torch.from_numpy(second)[None]


@pytest.fixture(scope="module")
def raft_weights(tmp_path_factory):
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [("tvl1", None), *(("dis", DisOptions(dis_preset=preset)) for preset in DIS_PRESETS)],
    ids=["tvl1", *DIS_PRESETS],
)
def test_a_shift_is_found(name, options):
    first, second = shifted_pair()
    flow = make_source(name, options)(first, second)
    assert flow.shape == (1, 2, 96, 128) and flow.dtype == torch.float32
    inner = flow[0, :, 12:-12, 12:-12].flatten(1)
    assert inner.median(dim=1).values.tolist() == pytest.approx(SHIFT, abs=0.2)


@pytest.mark.parametrize("name", ["tvl1", "dis"])
def test_a_batch_is_its_pairs_one_by_one(name):
    first, second = shifted_pair()
    pairs = torch.cat([first, second, first]), torch.cat([second, first, first])
    together = make_source(name)(*pairs)
    source = make_source(name)
    for index in reversed(range(3)):
        alone = source(pairs[0][index : index + 1], pairs[1][index : index + 1])
        assert torch.allclose(alone[0], together[index], atol=1e-4)
    assert together[2].abs().max() < 0.01, "the same picture twice does not move"


def test_raft_runs_and_cuts_back_its_padding(raft_weights):
    first, second = shifted_pair(150, 131)
    flow = make_source("raft", RaftOptions(raft_weights=raft_weights))(first, second)
    assert flow.shape == (1, 2, 150, 131) and bool(flow.isfinite().all())
    small = make_source("raft", RaftOptions(raft_weights=raft_weights))(
        first[:, :20, :16], second[:, :20, :16]
    )
    assert small.shape == (1, 2, 20, 16)


def test_raft_equals_torchvision_on_sizes_that_need_no_padding(raft_weights):
    from torchvision.models.optical_flow import raft_small

    first, second = shifted_pair(128, 136)
    model = raft_small(weights=None).eval()
    model.load_state_dict(torch.load(raft_weights, weights_only=True))
    colours = [
        (picture.float() / 255 * 2 - 1)[:, None].expand(-1, 3, -1, -1)
        for picture in (first, second)
    ]
    with torch.inference_mode():
        expected = model(*colours)[-1]
    assert torch.allclose(RaftFlow(raft_weights)(first, second), expected, atol=1e-3)


def test_raft_tells_large_from_small(raft_weights, tmp_path):
    from torchvision.models.optical_flow import raft_large

    torch.save(raft_large(weights=None).state_dict(), tmp_path / "weights.pth")
    assert RaftFlow(tmp_path / "weights.pth").model.mask_predictor is not None
    assert RaftFlow(raft_weights).model.mask_predictor is None, "only the large one has it"


class Harm:
    """What a file from a stranger may hold: unpickling it would run a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_raft_refuses_other_files(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "harm.pth").write_bytes(pickle.dumps(Harm(tmp_path / "ran"), protocol=2))
    for name, code in (
        ("absent.pth", "missing-file"),
        ("other.pth", "other-model"),
        ("list.pth", "wrong-format"),
        ("text.pth", "unsafe-file"),
        ("empty.pth", "unsafe-file"),
        ("harm.pth", "unsafe-file"),
        ("", "wrong-format"),
    ):
        with refuses(code, tmp_path / name, "raft_small"):
            RaftFlow(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    with refuses("missing-option", "--raft-weights", "raft_small"):
        make_source("raft")


def test_names():
    assert parse_sources("tvl1, motion-vectors") == ("tvl1", "motion-vectors")
    assert parse_sources(",".join(SOURCES)) == tuple(SOURCES)
    for text in ("farneback", "", "tvl1,,dis"):
        with refuses("unknown-name", "tvl1, dis, raft, motion-vectors"):
            parse_sources(text)
    with refuses("duplicate", " dis "):
        parse_sources("dis,tvl1,dis")
    with refuses("unknown-name", "--dis-preset is 'slow'", "ultrafast, fast, medium"):
        DisOptions(dis_preset="slow")
    with refuses("unknown-name", "--preset is 'slow'", "fast"):
        Tvl1Options(preset="slow")


@pytest.mark.parametrize("name", ["tvl1", "dis", "raft"])
def test_bad_frames_are_refused(name, raft_weights):
    source = make_source(name, RaftOptions(raft_weights) if name == "raft" else None)
    good = torch.zeros(1, 32, 32)
    for first, second, code, *named in (
        (good[:, :15], good[:, :15], "wrong-type", "(1, 15, 32)", "16 px"),
        (good[0], good[0], "wrong-type", "(32, 32)"),
        (good, good[:, :31], "wrong-type", "(1, 32, 32)", "(1, 31, 32)"),
        (good, good.byte(), "wrong-type", "torch.float32", "torch.uint8"),
        (good, torch.full_like(good, float("nan")), "not-finite", "NaN"),
    ):
        with refuses(code, *named):
            source(first, second)


def test_dis_takes_the_smallest_frames_and_views():
    source = make_source("dis")
    first, second = shifted_pair(64, 64)
    expected = source(first, second)
    assert source(first[:, :16, :16], second[:, :16, :16]).shape == (1, 2, 16, 16)
    assert torch.equal(source(first.float(), second.float()), expected), "whatever came before"
