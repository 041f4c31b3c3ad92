"""Charts, pictures of clips, reconstructions, and the command that writes them as PNG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from errors import refused, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from run_fixtures import add_verbs_and_nouns, write_finetune_run, write_pretrain_run
from shard_fixtures import write_moving_squares

from shared.grid import canonical_view
from shared.layout import DatasetLayout
from shared.manifest import read_classes, read_manifest
from train.figures import charts_of, clips_of, main
from train.pictures.charts import (
    Curve,
    PlainTicks,
    confusion_chart,
    coverage_chart,
    curves_chart,
    inside_chart,
    most_confused,
    shares_chart,
)
from train.pictures.clips import see_view, spread_over_classes
from train.pictures.reconstruction import reconstruct
from train.pictures.style import PALETTE, heat_rgba, png_uri, printable, shortened
from train.report_sections.page import choose_runs
from train.report_sections.runs import read_run, read_runs
from train.running.run_folder import RunFolder


def run_figures(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--no-report"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    layout = write_moving_squares(tmp_path_factory.mktemp("out"))
    write_pretrain_run(layout, "mofo")
    write_pretrain_run(layout, "videomae")
    write_finetune_run(layout, wrong=(1,))
    return layout


# ---------------------------------------------------------------------------------------------
# Charts
# ---------------------------------------------------------------------------------------------

CHARTS = {
    "curves": curves_chart(
        "Loss", [Curve("a", range(50), np.linspace(2, 1, 50)), Curve("b", [1, 2], [1.5, np.nan])],
        "epoch", "loss", reference=(1.0, "level"),
    ),
    "intervals": curves_chart(
        "Top-1", [Curve("a", [1, 2], [3, 4], [(2, 4), (3, 6)])], "clips", "top-1, %"
    ),
    "many curves": curves_chart(
        "Loss", [Curve(str(n), [0, 1], [n, n]) for n in range(7)], "epoch", "loss"
    ),
    "many points": curves_chart("Loss", [Curve("a", range(9999), range(9999))], "epoch", "loss"),
    "no points": curves_chart("Loss", [Curve("a", [], [])], "epoch", "loss"),
    "shares": shares_chart("Area", {"a": np.array([0.1, np.nan, 2.0])}, "x", "y"),
    "coverage": coverage_chart(np.random.default_rng(0).random((32, 32))),
    "no coverage": coverage_chart(np.zeros((32, 32))),
    "inside": inside_chart(np.array([0, 40, 196]), 196, 0.9, 0.75),
    "confusion": confusion_chart(np.arange(16).reshape(4, 4), ["a", "b", "<i>&", "$x_1^"]),
    "most confused": confusion_chart(np.arange(12).reshape(3, 4), ["a", "b", "c" * 40]),
    "large confusion": confusion_chart(np.eye(174, dtype=int), [str(i) for i in range(174)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHARTS)
def test_chart_is_an_svg_in_the_colours_of_the_page(name: str) -> None:
    svg = str(CHARTS[name].svg())
    ElementTree.fromstring(svg.replace("xlink:href", "href"))  # well-formed
    assert "http" not in svg and "<script" not in svg and "<!--" not in svg
    assert "var(--" in svg
    assert not any(colour in svg for colour in PALETTE.values())


def test_chart_as_png_has_its_size() -> None:
    chart = CHARTS["curves"]
    image = cv2.imdecode(np.frombuffer(chart.file("png", 100), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (round(chart.height * 100), round(chart.width * 100), 3)
    assert image.std() > 5 and image[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("number", "is_beside"), [(5, False), (6, True)])
def test_a_long_legend_lies_beside_the_curves(number: int, is_beside: bool) -> None:
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    curves = [Curve(str(n), [0, 1], [n, n]) for n in range(number)]
    curves_chart("Loss", curves, "epoch", "loss").draw(axes)
    figure.draw_without_rendering()
    legend = axes.get_legend().get_window_extent()
    assert (legend.x0 >= axes.get_window_extent().x1) == is_beside


@settings(deadline=None, max_examples=25)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_name_makes_a_well_formed_chart(name: str, other: str) -> None:
    svg = str(confusion_chart(np.eye(2, dtype=int), [name, other]).svg())
    ElementTree.fromstring(svg.replace("xlink:href", "href"))


@given(st.text())
def test_printable_text_is_short_and_without_controls(text: str) -> None:
    shown = printable(text, most=20)
    assert len(shown) <= 20
    assert not re.search(r"[\x00-\x1f\x7f\u200e\u200f\u202a-\u202e]", shown)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 0.5, 1.0], ["0.0", "0.5", "1.0"]),
        ([0.95, 1.0, 1.05], ["0.95", "1.00", "1.05"]),
        ([0, 20, 40], ["0", "20", "40"]),
        ([0, 20_000], ["0", "20k"]),
        ([0, 1.5e-4], ["0", "1.5e\u22124"]),
        ([-1, 1], ["\u22121", "1"]),
    ],
)
def test_ticks(values: list[float], texts: list[str]) -> None:
    assert PlainTicks().format_ticks(values) == texts


def test_percent_ticks() -> None:
    assert PlainTicks(percent=True).format_ticks([0.0, 0.025]) == ["0.0 %", "2.5 %"]


@given(st.integers(2, 9), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_most_confused_classes_keep_every_clip_of_theirs(count: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 4, (count, count)) * (rng.random((count, count)) < 0.4)
    numbers, counts = most_confused(matrix, most)
    assert len(numbers) <= most and numbers == sorted(set(numbers))
    assert counts.shape == (len(numbers), len(numbers) + 1)
    np.testing.assert_array_equal(counts.sum(axis=1), matrix[numbers].sum(axis=1))
    np.testing.assert_array_equal(counts[:, :-1], matrix[np.ix_(numbers, numbers)])
    wrong = matrix + matrix.T
    np.fill_diagonal(wrong, 0)
    if wrong.any():
        first, second = np.unravel_index(wrong.argmax(), wrong.shape)
        assert wrong[np.ix_(numbers, numbers)].max() == wrong[first, second]
    else:
        assert numbers == []


@given(st.text(st.characters(exclude_characters="\u2026")), st.integers(3, 30))
def test_a_shortened_name_keeps_both_ends(name: str, most: int) -> None:
    whole, shown = printable(name, len(name)), shortened(name, most)
    assert len(shown) <= most
    start, _, end = shown.partition("\u2026") if len(whole) > most else (whole, "", "")
    assert whole.startswith(start) and whole.endswith(end)


def test_heat_is_the_share_as_opacity() -> None:
    rgba = heat_rgba(np.array([0.0, 0.5, 1.0, 7.0]))
    assert rgba[:, 3].tolist() == [0, 128, 255, 255]
    assert png_uri(rgba[None, :, :3]).startswith("data:image/png;base64,")


# ---------------------------------------------------------------------------------------------
# Clips
# ---------------------------------------------------------------------------------------------


def test_view_shows_the_middle_of_the_frame() -> None:
    frame = np.zeros((60, 100, 3), np.uint8)
    frame[:, 20:80] = 200  # the centre square of what is stored
    seen = see_view(frame, (400, 240), canonical_view(400, 240, size=32))
    assert seen.shape == (32, 32, 3)
    assert (seen[:, 1:-1] == 200).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 12))
def test_clips_are_spread_over_classes(labels: list[int], num_clips: int) -> None:
    array = np.array(labels)
    chosen = spread_over_classes(array, num_clips)
    assert len(set(chosen.tolist())) == len(chosen) == min(num_clips, len(labels))
    assert len(set(array[chosen])) == min(num_clips, len(set(labels)))


# ---------------------------------------------------------------------------------------------
# Reconstructions
# ---------------------------------------------------------------------------------------------


def test_reconstruction_keeps_what_is_visible(trained: DatasetLayout) -> None:
    folders = [RunFolder(trained.runs / f"pretrain-{name}") for name in ("mofo", "videomae")]
    found = reconstruct(trained, folders, shown=3)
    assert [clip.split for clip in found] == ["test"] * 3
    assert len({clip.label for clip in found}) == 3
    for clip in found:
        assert clip.clip.shape == (16, 64, 64, 3) and clip.hidden.shape == (16, 64, 64)
        assert clip.hidden.mean() == 14 / 16  # round(0.9 * 16) of 16 positions
        assert list(clip.predicted) == ["pretrain-mofo", "pretrain-videomae"]
        for predicted in clip.predicted.values():
            visible = ~clip.hidden
            assert np.abs(predicted[visible].astype(int) - clip.clip[visible]).max() <= 1
            assert (predicted != clip.clip).any()
        assert 0.5 < clip.mean_loss < 1.0 < min(clip.loss.values())  # random weights
        rows = clip.rows(num_times=4)
        assert [len(frames) for _, frames in rows] == [4] * 4


def test_reconstruction_is_the_same_again(trained: DatasetLayout) -> None:
    folders = [RunFolder(trained.runs / "pretrain-mofo")]
    first, second = (reconstruct(trained, folders, 2) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.hidden, other.hidden)
        np.testing.assert_array_equal(
            one.predicted["pretrain-mofo"], other.predicted["pretrain-mofo"]
        )


def test_reconstruction_needs_weights_of_a_pretraining(trained: DatasetLayout) -> None:
    with refuses("other-kind", trained.runs / "finetune-mofo-mean"):
        reconstruct(trained, [RunFolder(trained.runs / "finetune-mofo-mean")], 1)
    with refuses("unknown-name", "nothing", "pretrain-mofo"):
        reconstruct(trained, [RunFolder(trained.runs / "nothing")], 1)


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


def test_figures_of_a_pretraining(trained: DatasetLayout) -> None:
    run = trained.runs / "pretrain-mofo"
    result = run_figures(run, "--beside", trained.runs / "pretrain-videomae", "--clips", 2)
    assert result.exit_code == 0, result.output
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert [path.name for path in paths] == [
        "pretraining-loss.png",
        "learning-rate.png",
        "throughput.png",
        "waiting-for-data.png",
        "reconstructions.png",
        "overview.png",
        "attention.png",
    ]
    for path in paths:
        image = cv2.imread(str(path))
        assert path.parent == run / "figures" and image.std() > 5
    # 8 columns of an inch beside captions; 2 clips of a title and 4 rows.
    image = cv2.imread(str(run / "figures" / "reconstructions.png"))
    assert image.shape[:2] == (round((8 + 2 * 0.35 + 0.05) * 120), round((8 + 2.1) * 120))


def test_figures_of_a_finetuning(trained: DatasetLayout) -> None:
    result = run_figures(trained.runs / "finetune-mofo-mean")
    assert result.exit_code == 0, result.output
    names = [Path(line).name for line in result.stdout.splitlines()]
    assert names[:2] == ["finetuning-loss.png", "validation-accuracy.png"]
    assert names[-3:] == ["confusion-matrix.png", "gradcam.png", "attention.png"]


def test_figures_of_verbs_and_nouns(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path)
    add_verbs_and_nouns(layout)
    run = read_run(write_finetune_run(layout, wrong=(1,), kinds=("verb", "noun")).path)
    assert {name for name in charts_of(run) if name.startswith("confusion")} == {
        "confusion-matrix-of-verbs",
        "confusion-matrix-of-nouns",
    }
    classes, clips = read_classes(layout.classes), read_manifest(layout.manifest)
    of_clip = {clip.clip_id: clip for clip in clips}
    figures = clips_of(run, (), 1, None, None)
    assert list(figures) == ["gradcam-of-verbs", "gradcam-of-nouns", "attention"]
    for name, kind in (("verb", "verb"), ("noun", "noun")):
        for title, rows in figures[f"gradcam-of-{name}s"]:
            shown, clip_id = title.split(" of split")[0].split(", clip ")
            names = getattr(classes, kind)
            assert shown == names[getattr(of_clip[clip_id], kind)]
            assert all(caption.split(",")[0][4:] in names for caption, _ in rows[1:])


@pytest.mark.parametrize(("suffix", "first"), [("svg", b"<?xml"), ("pdf", b"%PDF-")])
def test_figures_of_chosen_clips_as_vectors(trained: DatasetLayout, suffix: str, first: bytes):
    run = trained.runs / "pretrain-mofo"
    held_out = [c.clip_id for c in read_manifest(trained.manifest) if c.split == "test"]
    options = ("--format", suffix, "--clip", held_out[-1], "--clip", held_out[0])
    result = run_figures(run, *options)
    assert result.exit_code == 0, result.output
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert [path.suffix for path in paths] == [f".{suffix}"] * 7
    written = [path.read_bytes() for path in paths]
    assert all(data.startswith(first) for data in written)
    run_figures(run, *options)
    assert [path.read_bytes() for path in paths] == written
    shown = [
        title
        for title, _ in clips_of(read_run(run), (), tuple(held_out[-1:]), None, None)["attention"]
    ]
    assert [title.split(", clip ")[1].split(" of ")[0] for title in shown] == held_out[-1:]


def test_figures_say_what_is_wrong(trained: DatasetLayout, tmp_path: Path) -> None:
    finetuned = trained.runs / "finetune-mofo-mean"
    missing = run_figures(trained.runs / "pretrain-none")
    refused(missing, "unknown-name", "pretrain-none", "finetune-mofo-mean, pretrain-mofo")
    beside = run_figures(finetuned, "--beside", trained.runs / "pretrain-mofo")
    refused(beside, "option-unused", "--beside", finetuned)
    both = run_figures(finetuned, "--clips", 2, "--clip", "a")
    refused(both, "option-conflict", "--clips", "--clip")
    held_out = [c.clip_id for c in read_manifest(trained.manifest) if c.split == "test"]
    unknown = run_figures(finetuned, "--clip", held_out[0], "--clip", "a")
    refused(unknown, "no-match", "no clip a;", held_out[0])
    layout = write_moving_squares(tmp_path, num_clips=5)
    run = write_pretrain_run(layout, weights=False).path
    refused(run_figures(run), "not-finished", run)


def test_the_report_of_the_dataset_is_written_with_the_run(
    trained: DatasetLayout, capsys: pytest.CaptureFixture
) -> None:
    trained.report.unlink(missing_ok=True)
    main([str(trained.runs / "pretrain-videomae"), "--clips", "1"], standalone_mode=False)
    assert capsys.readouterr().out.endswith(f"report {trained.report}\n")
    page = trained.report.read_text()
    assert "pretrain-videomae" in page and "data:image/png;base64," in page
    runs, _ = read_runs(trained.runs)
    chosen = choose_runs(runs, "pretrain-videomae")
    assert chosen.pretrained.name == "pretrain-videomae" and chosen.finetuned is None
    chosen = choose_runs(runs, "pretrain-mofo")
    assert chosen.pretrained.name == "pretrain-mofo"
    assert chosen.finetuned.name.startswith("finetune-mofo")
    with refuses("unknown-name", "none", "finetune-mofo-mean, pretrain-mofo, pretrain-videomae"):
        choose_runs(runs, "none")
