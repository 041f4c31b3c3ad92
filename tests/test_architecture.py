"""docs/architecture.md describes the folders and the two trips as the code has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_imports import IMPORTS, PROGRAMS, place_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
LONGEST_TRIP = {"One clip from decode to shard": 15, "One pretraining step from shard to loss": 14}


def section(heading: str) -> str:
    [found] = [
        part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE) if part.startswith(heading)
    ]
    return found


def described_folders(program: str) -> list[tuple[str, set[str]]]:
    """Each folder of the page's table with what it imports, from the bottom to the top."""
    rows = re.findall(
        r"^\| `(\w+)/` \| [^|]+ \|([^|]*)\|$", section(f"Folders of {program}/"), re.MULTILINE
    )
    return [(folder, set(re.findall(r"`(\w+)/`", imports))) for folder, imports in rows]


def imported_folders(program: str) -> dict[str, set[str]]:
    """Each folder of a program with the folders that its modules import."""
    folders = {
        path.parent.relative_to(ROOT / program).parts[0]: set[str]()
        for path in (ROOT / program).glob("*/__init__.py")
    }
    for module, names in IMPORTS.items():
        program_of, _, folder = place_of(module).partition("/")
        if program_of == program and folder in folders:
            places = {place_of(name) for name in names if name.startswith(f"{program}.")}
            folders[folder] |= {place.partition("/")[2] for place in places}
    return {folder: names - {folder, ""} for folder, names in folders.items()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_tables_have_every_folder_with_its_imports(program):
    assert dict(described_folders(program)) == imported_folders(program)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_tables_run_from_the_bottom_to_the_top(program):
    above: set[str] = set()
    for folder, imports in described_folders(program):
        assert imports <= above, f"{folder} imports folders above it: {imports - above}"
        above.add(folder)


@pytest.mark.parametrize(("heading", "longest"), LONGEST_TRIP.items())
def test_the_trips_are_short_and_name_files_that_exist(heading, longest):
    files = re.findall(r"^\d+\. `([\w/]+\.py)`", section(heading), re.MULTILINE)
    assert 10 < len(files) <= longest
    assert len(set(files)) == len(files)
    for file in files:
        assert (ROOT / file).is_file(), file
