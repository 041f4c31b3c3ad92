"""`--like RUN`: repeat an earlier run with its recorded options, on the same data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.run_record import git_commit, versions
from train.running.run_folder import ROWS, RunFolder, described
from train.tables.nested import flatten

INPUTS = ("data", "manifest", ROWS, "init_digest", "from_digest", "classes")
"""Entries of options.json that identify the input of a run. If one differs, so does the result."""


@dataclass(frozen=True)
class EarlierRun:
    """The content of options.json of an earlier run.

    Attributes:
        name: name of the run folder.
        command: "pretrain" or "finetune".
        options: the resolved options that were recorded.
        versions, git_commit: versions of the packages and of this project that made the run.
    """

    name: str
    command: str
    options: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None

    def tables(self) -> dict[str, Any]:
        """The options as tables of a recipe, without those that are computed from the others."""
        config = dict(self.options["config"])
        computed = ("prediction_dim", "second_prediction_dim", "predict_visible")
        config["model"] = {k: v for k, v in config["model"].items() if k not in computed}
        if config.get("head", {}).get("kind") == "mean":
            # The other recorded options are those of the head mca.
            config["head"] = {"kind": "mean"}
        if self.command == "pretrain":
            config[self.options["method"]] = {}
        recipe = {"loader": self.options["loader"], self.command: config}
        return recipe | {k: self.options[k] for k in ("evaluate",) if k in self.options}

    def recorded(self, option: str, recorded: Any, given: Any) -> Any:
        """The recorded value of an option that the earlier run decides.

        Raises:
            InputError: the command line gives another value.
        """
        if given is not None and given != recorded:
            raise InputError(
                "option-conflict",
                f"{option} is {given}, and run {self.name} was made with {recorded}; leave out "
                f"{option} or --like",
            )
        return recorded

    def check_input(self, options: Mapping[str, Any]) -> None:
        """Refuse data or weights that differ from those of the earlier run.

        Raises:
            InputError: one differs; the message names both digests.
        """
        known = [name for name in INPUTS if self.options.get(name) is not None]
        recorded, present = (
            flatten({name: each[name] for name in known if each.get(name) is not None})
            for each in (self.options, options)
        )
        for name in sorted(recorded.keys() | present.keys()):
            before, now = recorded.get(name, "none"), present.get(name, "none")
            if name == "data" and before.count("+") != now.count("+"):
                # Another mask or target reads other shards; only the frames can be compared.
                before, now = before.split("+")[0], now.split("+")[0]
            if before != now:
                raise InputError(
                    "other-inputs",
                    f"{described(name)} is {now}, but run {self.name} had {before}, so that the "
                    "same options would give another result; restore the earlier input, or start "
                    "a new run with --recipe",
                )

    def differences(self) -> list[str]:
        """Versions that differ from those of the earlier run: "torch 1.0 (now 2.0)"."""
        now = versions()
        changed = [
            f"{name} {before} (now {now.get(name, 'none')})"
            for name, before in self.versions.items()
            if now.get(name) != before
        ]
        if (commit := git_commit()) != self.git_commit:
            changed.append(f"commit {self.git_commit} (now {commit})")
        return changed


def read_earlier(layout: DatasetLayout, run: str, command: str) -> EarlierRun:
    """Read the record of a run: a name below OUT/<dataset>/runs, or any run folder.

    Raises:
        InputError: there is no such run, or another command made it.
    """
    folder = RunFolder(Path(run) if (Path(run) / "options.json").is_file() else layout.runs / run)
    record = folder.read_record()
    options = record["options"]
    if options.get("command") != command:
        raise InputError(
            "other-kind",
            f"--like {run}: {folder.path} is a run of train.{options.get('command')}, not of "
            f"train.{command}; give a run of train.{command}",
        )
    return EarlierRun(
        folder.path.name, command, options, record.get("versions", {}), record.get("git_commit")
    )
