"""`--like RUN`: begin a run with the options that an earlier one recorded, on the same data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.run_record import git_commit, versions
from train.running.run_folder import RunFolder

SAME = ("data", "manifest", "init_digest", "from_digest", "classes")
"""Of options.json, what names the input of a run: where it differs, so would the result."""


@dataclass(frozen=True)
class EarlierRun:
    """What options.json of an earlier run says.

    Attributes:
        name: of its folder.
        command: "pretrain" or "finetune".
        options: resolved, as they were recorded.
        versions, git_commit: of the programs that it was made with.
    """

    name: str
    command: str
    options: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None

    def tables(self) -> dict[str, Any]:
        """Its options as the tables of a recipe, complete but for what follows from the rest."""
        config = dict(self.options["config"])
        follow = ("prediction_dim", "second_prediction_dim")
        config["model"] = {k: v for k, v in config["model"].items() if k not in follow}
        if self.command == "pretrain":
            config[self.options["method"]] = {}
        recipe = {"loader": self.options["loader"], self.command: config}
        return recipe | {k: self.options[k] for k in ("evaluate",) if k in self.options}

    def recorded(self, option: str, recorded: Any, given: Any) -> Any:
        """The recorded value of an option that an earlier run decides.

        Raises:
            InputError: another one is given beside it.
        """
        if given is not None and given != recorded:
            raise InputError(
                f"{option} {given}: run {self.name} was made with {recorded}; leave it out, or "
                "leave out --like"
            )
        return recorded

    def check_input(self, options: Mapping[str, Any]) -> None:
        """Refuse other data or weights than the earlier run began with.

        Raises:
            InputError: naming both digests.
        """
        for name in SAME:
            before, now = self.options.get(name), options.get(name, "none")
            if before is None:
                continue
            if name == "data" and before.count("+") != now.count("+"):
                # A change of mask or target reads other shards; the frames are still compared.
                before, now = before.split("+")[0], now.split("+")[0]
            if before != now:
                raise InputError(
                    f"{name} is {now}, but run {self.name} had {before}: the same options would "
                    "give something else. Restore what it had, or begin a run of its own with "
                    "--recipe"
                )

    def differences(self) -> list[str]:
        """Lines on programs that are not those of the earlier run."""
        now = versions()
        changed = [
            f"{name} {before} there, {now.get(name, 'absent')} now"
            for name, before in self.versions.items()
            if now.get(name) != before
        ]
        if (commit := git_commit()) != self.git_commit:
            changed.append(f"commit {self.git_commit} there, {commit} now")
        return changed


def read_earlier(layout: DatasetLayout, run: str, command: str) -> EarlierRun:
    """The run of a name below OUT/<dataset>/runs, or in a folder of any place.

    Raises:
        InputError: there is none, or it is one of another command.
    """
    folder = RunFolder(Path(run) if (Path(run) / "options.json").is_file() else layout.runs / run)
    record = folder.read_record()
    options = record["options"]
    if options.get("command") != command:
        raise InputError(
            f"--like {run}: {folder.path} is a run of train.{options.get('command')}, not of "
            f"train.{command}"
        )
    return EarlierRun(
        folder.path.name, command, options, record.get("versions", {}), record.get("git_commit")
    )
