"""Progress: a bar on a terminal, and lines without carriage returns in a log file."""

from __future__ import annotations

import ast
import io
import sys

import pytest
from conftest import ROOT
from tqdm import tqdm

from shared import progress
from shared.progress import bar_options


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **options: object) -> str:
    """What 5 updates of a bar write to stderr."""
    monkeypatch.setattr(sys, "stderr", stream)
    with tqdm(total=5, desc="flows", unit="clip", **bar_options(), **options) as bar:
        bar.set_postfix({"loss": 0.5}, refresh=False)
        for _ in range(5):
            bar.update()
    return stream.getvalue()


def test_a_terminal_has_a_bar(monkeypatch):
    assert "\r" in drawn(monkeypatch, Terminal())
    assert bar_options(delay=1)["delay"] == 1


@pytest.mark.parametrize("leave", [True, False])
def test_a_log_has_lines(monkeypatch, leave):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    text = drawn(monkeypatch, io.StringIO(), leave=leave)
    assert text.endswith("\n") and "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert 2 <= len(lines) <= 9 and all(line.startswith("flows: ") for line in lines), lines
    assert not leave or "5 of 5 (100 %)" in lines[-1]
    assert any("loss=0.5" in line for line in lines)


def test_a_log_has_at_most_a_line_a_minute(monkeypatch):
    """On a clock of our own: an hour of one clip a second."""
    now = [1000.0]
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # no thread that looks at the real clock
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with tqdm(total=3600, desc="flows", unit="clip", **bar_options()) as bar:
        bar._time = lambda: now[0]
        for _ in range(3600):
            now[0] += 1
            bar.update()
    lines = stream.getvalue().splitlines()
    assert 50 <= len(lines) <= 61, len(lines)
    assert "of 3600" in lines[0] and "1.00clip/s" in lines[0]


def test_a_short_job_writes_no_line(monkeypatch):
    assert drawn(monkeypatch, io.StringIO()) == ""
    assert drawn(monkeypatch, io.StringIO(), leave=False) == ""


def test_bars_within_bars_stay_lines(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in tqdm(range(2), "outer", **bar_options()):
        for _ in tqdm(range(2), "inner", leave=False, **bar_options()):
            pass
    lines = stream.getvalue().splitlines()
    assert {line.split(":")[0] for line in lines} == {"outer", "inner"}
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_every_bar_of_the_programs_becomes_lines():
    found = 0
    for folder in ("preprocess", "train"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or ast.unparse(node.func) != "tqdm":
                    continue
                found += 1
                spread = [ast.unparse(word.value) for word in node.keywords if word.arg is None]
                assert any(text.startswith("bar_options(") for text in spread), path
    assert found > 10
