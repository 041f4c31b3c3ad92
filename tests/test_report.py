"""The report: one file, hostile names escaped, missing parts said and never faked."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from shard_fixtures import write_moving_squares

from shared.layout import DatasetLayout
from shared.shard_index import INDEX_NAME
from train.report import main
from train.report_clips import choose_samples, strangest
from train.report_dataset import read_box_table, read_clip

HOSTILE = [
    "<script>alert(1)</script>",
    "a\"b'c & <b>d</b>",
    "$\\frac{1}{0}$ --> ]]>",
    "\u202eevil\x07 \U0001f600 \u4e0a http://x.example/",
]


def make_report(layout: DatasetLayout) -> tuple[str, str]:
    """Run the command: its standard output, and the page."""
    arguments = ["--dataset", layout.dataset, "--out", str(layout.out)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, layout.report.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    return write_moving_squares(tmp_path_factory.mktemp("out"), num_clips=12, still=(3, 8))


def test_page_is_one_file_without_loads(squares: DatasetLayout) -> None:
    _, html = make_report(squares)
    page = Page(html)
    assert "http://" not in html and "https://" not in html
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert "@import" not in html and "@font-face" not in html
    assert not re.search(r"url\((?!#)", html)  # only references within a chart
    for image in page.all("img"):
        assert image["src"].startswith(("data:image/jpeg;base64,", "data:image/png;base64,"))
    for anchor in page.all("a"):
        assert anchor["href"].startswith("#")


def test_page_shows_the_dataset(squares: DatasetLayout) -> None:
    _, html = make_report(squares)
    page = Page(html)
    assert len(page.all("svg")) == 4  # area, place, positions, energy
    samples = html[html.index('id="clips"') : html.index('id="dataset"')]
    assert samples.count("<img") == 4 * 3 * 4  # clips, rows, times
    assert "2 clips (16.7 %)" in page.text  # without motion
    for direction in ("left", "right", "up", "down"):
        assert direction in page.text


def test_same_input_gives_the_same_page(squares: DatasetLayout) -> None:
    assert make_report(squares)[1] == make_report(squares)[1]


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=8, names=HOSTILE)
    layout.failures.write_text(
        json.dumps({"clip_id": HOSTILE[0], "stage": "decode", "reason": "<img src=x onerror=y>"})
        + "\n"
    )
    _, html = make_report(layout)
    page = Page(html)
    assert not page.all("script")
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert "<script>alert(1)</script>" in page.text  # shown as text
    assert "<img src=x onerror=y>" in page.text


def test_failures_are_counted_by_stage(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=4)
    failures = [{"clip_id": f"bad-{i}", "stage": "decode", "reason": "cut"} for i in range(30)]
    layout.failures.write_text("".join(json.dumps(failure) + "\n" for failure in failures))
    text = Page(make_report(layout)[1]).text
    assert "30 clips set aside: 30 in decode" in text
    assert "bad-19" in text and "bad-20" not in text


@pytest.mark.parametrize("kind", ["frames", "flows", "boxes"])
def test_missing_shards_are_said(tmp_path: Path, kind: str) -> None:
    layout = write_moving_squares(tmp_path, num_clips=4)
    folder = getattr(layout, kind)
    for path in folder.iterdir():
        path.unlink()
    text = Page(make_report(layout)[1]).text
    assert f"No {kind} in {folder}" in text


def test_boxes_alone_make_a_report(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=4)
    layout.manifest.unlink()
    for folder in (layout.frames, layout.flows):
        for path in folder.iterdir():
            path.unlink()
    text = Page(make_report(layout)[1]).text
    assert "no manifest at" in text
    assert "Motion boxes of 4 clips with 64 frames" in text


def test_damaged_shard_is_said(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=4)
    shard = layout.frames / "00000.h5"
    shard.write_bytes(shard.read_bytes()[:5000])
    assert "00000.h5" in Page(make_report(layout)[1]).text


def test_unfinished_shards_are_not_read(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=4)
    (layout.boxes / INDEX_NAME).unlink()
    assert "No boxes in" in Page(make_report(layout)[1]).text


def test_missing_dataset_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--dataset", "nothing", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no folder ") and result.stderr.count("\n") == 1


def test_box_table_measures_what_was_drawn(squares: DatasetLayout) -> None:
    table = read_box_table(squares)
    clip = read_clip(squares, table, 0)
    sides = clip.boxes[:, 2:] - clip.boxes[:, :2]
    assert table.num_without_motion == 2
    assert table.num_frames.tolist() == [16] * 12
    assert np.isnan(table.clip_share[3]) and table.still_share[3] == 1.0
    assert np.isclose(table.frame_shares[:16].mean(), (sides.prod(axis=1) / 64**2).mean())
    union = np.concatenate([clip.boxes[:, :2].min(0), clip.boxes[:, 2:].max(0)])
    assert np.isclose(table.clip_share[0], (union[2:] - union[:2]).prod() / 64**2)
    assert np.isclose(table.coverage.mean(), table.frame_shares.mean(), atol=0.01)
    assert (table.jump[~np.isnan(table.jump)] > 0).all()


def test_samples_move_and_are_of_different_classes(squares: DatasetLayout) -> None:
    from shared.manifest import read_manifest

    table, clips = read_box_table(squares), read_manifest(squares.manifest)
    chosen = choose_samples(table, clips)
    assert len({clips[row].label for row in chosen}) == 4
    assert not {3, 8} & set(chosen)


def test_strangest_clips_come_once_and_first_by_measure(squares: DatasetLayout) -> None:
    found = strangest(read_box_table(squares), most=6)
    rows = [row for row, _, _ in found]
    assert len(rows) == len(set(rows)) <= 6
    assert {3, 8} <= set(rows)
    assert all(why != "longest" for _, why, _ in found)  # all are of one length
