"""What a run tells of its speed: operations, figures of the log, traces, compiled blocks."""

import json
import time

import pytest
import torch
from errors import refuses
from safetensors.torch import load_file
from shard_fixtures import write_moving_squares
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training_fixtures import losses, tiny_run

from shared.run_record import read_jsonl
from train.clips.sampler import BatchPlan
from train.evaluation.probe_series import ProbeSeries
from train.network.autoencoder import MaskedAutoencoder, ModelConfig, VideoEncoder, named_config
from train.network.compiled import compile_blocks, wants_compiling
from train.network.head import CrossAttentionHead
from train.network.head_config import HeadConfig
from train.options.config import LoaderConfig
from train.pictures.snapshots import Snapshots
from train.pretrain import pretrain
from train.running.engine import Processes, deepspeed_config
from train.running.progress import Stopwatch
from train.running.throughput import finetuning_flops, pretraining_flops

SMALL = ModelConfig(
    image_size=64, num_frames=8, width=48, depth=2, num_heads=2,
    decoder_width=24, decoder_depth=1, decoder_heads=2, decoder_mlp_ratio=2.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    layout = write_moving_squares(tmp_path_factory.mktemp("out"), num_clips=40)
    return layout.out


def a_clip(config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor, int]:
    clips = torch.randn(1, 3, config.num_frames, config.image_size, config.image_size)
    mask = torch.arange(config.num_tokens)[None] % 4 > 0
    return clips, mask, int(mask.sum())


def counted(work) -> int:
    """Operations as PyTorch's own counter sees them.

    Attention runs as plain matrix products: what the counter knows of fused kernels differs from
    one version of PyTorch to the next.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_operations_are_those_that_pytorch_counts():
    model = MaskedAutoencoder(SMALL).eval()
    clips, mask, num_masked = a_clip(SMALL)
    found = counted(lambda: model(clips, mask, num_masked).sum().backward())
    assert pretraining_flops(SMALL, num_masked) == pytest.approx(found, rel=0.03)
    for attention in ("joint", "divided"):
        config = ModelConfig(**{**SMALL.to_dict(), "attention": attention})
        encoder = VideoEncoder(config, final_norm=False).eval()
        found = counted(lambda encoder=encoder: encoder(clips).sum().backward())
        assert finetuning_flops(config) == pytest.approx(found, rel=0.03)
    two = ModelConfig(**SMALL.to_dict() | {"prediction_dim": 400, "second_prediction_dim": 300})
    model = MaskedAutoencoder(two).eval()
    found = counted(lambda: model(clips, mask, num_masked).sum().backward())
    assert pretraining_flops(two, num_masked) == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize("head_width", ["model", "split"])
@pytest.mark.parametrize("depth", [1, 2])
def test_operations_of_the_cross_attention_head_count(head_width, depth):
    head = HeadConfig("mca", num_heads=3, depth=depth, head_width=head_width)
    encoder, pooling = VideoEncoder(SMALL, final_norm=False).eval(), CrossAttentionHead(48, head)
    clips, inside, _ = a_clip(SMALL)
    found = counted(lambda: pooling(encoder(clips), inside).sum().backward())
    assert finetuning_flops(SMALL, head) == pytest.approx(found, rel=0.04)


def test_vit_b_takes_what_its_arithmetic_says():
    """By hand: 12 blocks of 160 tokens, 4 of 1,568, and the three maps around them."""
    config = named_config("vit-b")
    encoder = 12 * (24 * 160 * 768**2 + 4 * 160**2 * 768)
    decoder = 4 * (24 * 1568 * 384**2 + 4 * 1568**2 * 384)
    rest = 2 * 160 * 768 * 384 + 2 * 1408 * 384 * 1536
    embed = 2 * 160 * 1536 * 768
    expected = 3 * (encoder + decoder + rest) + 2 * embed
    assert pretraining_flops(config, 1408) == expected


def test_a_line_of_the_log_says_how_fast_it_went():
    watch = Stopwatch(Processes(0, 2, torch.device("cpu")))
    watch.count(8)
    time.sleep(0.05)
    watch.count(8)
    figures = watch.read(clip_flops=1e12)
    assert figures["clips_per_second"] * figures["step_seconds"] == pytest.approx(8, rel=0.05)
    assert figures["tflops_per_process"] == pytest.approx(figures["clips_per_second"] / 2, rel=0.01)
    assert 0.05 < figures["peak_memory_gb"] < 100
    watch.reset()
    assert watch.read(1e12)["clips_per_second"] == 0


def test_probes_and_snapshots_are_no_part_of_the_speed(out, monkeypatch):
    """Each takes a second here, and the steps of the tiny model are much shorter."""
    monkeypatch.setattr(ProbeSeries, "run", lambda *given: time.sleep(1))
    monkeypatch.setattr(Snapshots, "is_due", lambda watch, step: step == 2)
    monkeypatch.setattr(Snapshots, "take", lambda *given: time.sleep(1) or {})
    run = tiny_run(out, "loader.log_steps=2", run="probed", epochs=1)
    folder = pretrain(run, "mofo", probe_every=2)
    first, *others = read_jsonl(folder.log)
    assert first["step"] == 2 and first["seconds"] > 2
    assert all(event["step_seconds"] < 0.9 for event in (first, *others))


def test_a_run_logs_its_speed_and_traces_five_steps(out):
    folder = pretrain(tiny_run(out, run="traced", profile=True), "mofo")
    for event in read_jsonl(folder.log):
        assert event["clips_per_second"] > 0 and 0 <= event["data_wait_share"] <= 1
        assert event["step_seconds"] > 0 and event["tflops_per_process"] >= 0
    names = [event.get("name", "") for event in json.loads(folder.trace.read_text())["traceEvents"]]
    assert sum(name.startswith("ProfilerStep") for name in names) == 5
    assert any("scaled_dot_product" in name for name in names)


def test_bf16_learns_what_fp32_does_and_continues_only_as_bf16(out):
    whole = pretrain(tiny_run(out, run="whole-fp32"), "mofo")
    expected = losses(whole.log)
    bf16 = "loader.precision=bf16"
    pretrain(tiny_run(out, bf16, run="stopped-bf16", stop_after=0), "mofo")
    with refuses("other-options", "--set loader.precision=bf16", "fp32"):
        pretrain(tiny_run(out, run="stopped-bf16"), "mofo")
    folder = pretrain(tiny_run(out, bf16, run="stopped-bf16"), "mofo")
    unbroken = pretrain(tiny_run(out, bf16, run="whole-bf16"), "mofo")
    assert losses(folder.log) == losses(unbroken.log)
    assert losses(folder.log) == pytest.approx(expected, abs=0.02)
    assert losses(folder.log) != pytest.approx(expected, abs=1e-6)
    for name, weights in load_file(folder.weights).items():
        assert weights.dtype == torch.float32, name


@pytest.mark.parametrize("stage", [0, 2])
def test_other_zero_stages_learn_the_same_and_go_on(out, stage):
    whole = pretrain(tiny_run(out, run="stage-1"), "mofo")
    stop = f"loader.zero_stage={stage}"
    name = f"stage-{stage}"
    pretrain(tiny_run(out, stop, run=name, stop_after=0), "mofo")
    with refuses("other-options", f"--set loader.zero_stage={stage}", 1):
        pretrain(tiny_run(out, run=name), "mofo")
    folder = pretrain(tiny_run(out, stop, run=name), "mofo")
    assert losses(folder.log) == pytest.approx(losses(whole.log), abs=1e-5)


def test_stage_0_is_refused_with_bf16():
    with refuses("option-conflict", "zero_stage", "1 or 2", "precision=fp32"):
        deepspeed_config(BatchPlan(4, 1, 1), 1, 1.0, bf16=True, zero_stage=0)
    with refuses("out-of-range", "zero_stage", 3):
        LoaderConfig(zero_stage=3)
    with refuses("unknown-name", "precision", "'fp16'", "auto, fp32, bf16"):
        LoaderConfig(precision="fp16")
    with refuses("unknown-name", "compile", "'sometimes'", "gpu, always, never"):
        LoaderConfig(compile="sometimes")


def test_every_block_is_compiled_whatever_its_rate_of_drop_path():
    """Ten rates of drop path, in training and in testing."""
    config = ModelConfig(**{**SMALL.to_dict(), "depth": 10, "drop_path": 0.2})
    encoder = VideoEncoder(config, final_norm=False)
    ran = 0  # compiled blocks: beyond PyTorch's limit a block runs as it is, and says nothing

    def counting(graph, inputs):
        def run(*values):
            nonlocal ran
            ran += 1
            return graph(*values)

        return run

    torch._dynamo.reset()
    compile_blocks(encoder, backend=counting)
    clips = torch.randn(2, 3, config.num_frames, config.image_size, config.image_size)
    for mode in (True, False):
        ran = 0
        encoder.train(mode)(clips)
        assert ran == 10, mode


def test_compiled_blocks_are_the_same_model():
    """Traced and run by AOT autograd: the way to the compiler, without its minute."""
    torch.manual_seed(0)
    model, plain = MaskedAutoencoder(SMALL), MaskedAutoencoder(SMALL)
    plain.load_state_dict(model.state_dict())
    blocks = [*model.encoder.blocks, *model.decoder.blocks]
    eager = [block.forward for block in blocks]
    compile_blocks(model, backend="aot_eager")
    assert all(block.forward != was for block, was in zip(blocks, eager, strict=True))
    assert model.state_dict().keys() == plain.state_dict().keys()
    clips, mask, num_masked = a_clip(SMALL)
    for each in (model, plain):
        each(clips, mask, num_masked).square().mean().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert [wants_compiling(each, True) for each in ("gpu", "always", "never")] == [
        True, True, False,
    ]  # fmt: skip
    assert not wants_compiling("gpu", False)


def test_where_compiling_fails_blocks_run_as_they_are():
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    torch.manual_seed(0)
    model, plain = MaskedAutoencoder(SMALL), MaskedAutoencoder(SMALL)
    plain.load_state_dict(model.state_dict())
    compile_blocks(model, backend=broken)
    clips, mask, num_masked = a_clip(SMALL)
    with pytest.warns(UserWarning, match="no compiler here.*more slowly") as warned:
        found = model(clips, mask, num_masked)
    assert len(warned) == 1
    torch.testing.assert_close(found, plain(clips, mask, num_masked))


@pytest.mark.slow
def test_compiled_by_inductor_it_learns_the_same(out):
    whole = pretrain(tiny_run(out, run="eager"), "mofo")
    folder = pretrain(tiny_run(out, "loader.compile=always", run="compiled"), "mofo")
    assert losses(folder.log) == pytest.approx(losses(whole.log), abs=1e-4)
