"""`--help` of every command: short enough for a screen, with units and defaults."""

from __future__ import annotations

import importlib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from preprocess.running.options import FormerOption

ROOT = Path(__file__).resolve().parents[1]
LINES, COLUMNS = 60, 100
NUMBERS = (click.types.IntParamType, click.types.FloatParamType)


def modules() -> list[str]:
    """Everything that can be started with `python -m`."""
    files = [
        path
        for folder in ("preprocess", "train", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if '__name__ == "__main__"' in path.read_text()
    ]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]


def commands(module: str) -> list[click.Command]:
    main = importlib.import_module(module).main
    return [main, *main.commands.values()] if isinstance(main, click.Group) else [main]


def help_text(command: click.Command, option: str = "--help") -> list[str]:
    shown = CliRunner().invoke(command, [option], terminal_width=COLUMNS)
    assert shown.exit_code == 0, shown.output
    return shown.output.splitlines()


def test_all_commands_are_found():
    assert {"preprocess.flows", "train.pretrain", "train.checkpoint"} <= set(modules())


@pytest.mark.parametrize("module", modules())
def test_help_fits_and_says_units_and_defaults(module):
    for command in commands(module):
        shown = help_text(command)
        assert len(shown) <= LINES, f"{len(shown)} lines"
        assert max(map(len, shown)) <= COLUMNS
        assert command.help, "what it does"
        options = [each for each in command.params if isinstance(each, click.Option)]
        for option in options:
            name = option.opts[0]
            assert option.help, f"{name} has no help"
            if isinstance(option.type, NUMBERS) and not option.is_flag:
                unit = option.metavar or ""
                assert unit and unit not in ("INTEGER", "FLOAT"), f"{name} has no unit"
            shows = option.show_default or command.context_settings.get("show_default")
            said = "default" in (option.help or "") or option.default is None
            assert shows or said or option.is_flag, f"{name} hides its default"


@pytest.mark.parametrize("module", ["preprocess.doctor", "preprocess.toy", "preprocess.boxes"])
def test_defaults_are_not_those_of_this_machine(module):
    for command in commands(module):
        (workers,) = [option for option in command.params if option.opts == ["--workers"]]
        assert (
            not isinstance(workers.default, int) and "[default: one for each core]" in workers.help
        )


@pytest.mark.parametrize("module", modules())
def test_rare_options_are_shown_by_help_all(module):
    for command in commands(module):
        options = [each for each in command.params if isinstance(each, click.Option)]
        former = [each.opts[0] for each in options if isinstance(each, FormerOption)]
        rare = [each.opts[0] for each in options if each.hidden and each.opts[0] not in former]
        assert all(each.hidden for each in options if each.opts[0] in former)
        if not rare:
            continue
        usual = "\n".join(help_text(command))
        assert "--help-all" in usual and not [name for name in rare if f"{name} " in usual]
        shown = help_text(command, "--help-all")
        assert max(map(len, shown)) <= COLUMNS
        assert not [name for name in rare if name not in "\n".join(shown)]
