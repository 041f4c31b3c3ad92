"""Names of datasets in any alphabet, and what no name may have."""

from pathlib import Path

import pytest
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st

from shared.layout import DatasetLayout, is_dataset_name
from shared.make_commands import make_around


@pytest.mark.parametrize("name", ["ssv2", "0a", "gestes-été_1.2", "жесты", "手势", "इशारे", "ท่าทาง"])
def test_names_of_every_alphabet_are_allowed(tmp_path, name):
    layout = DatasetLayout(tmp_path, name)
    assert f"DATASET={name} " in layout.make("flows") + " "
    layout.root.mkdir()
    layout.manifest.touch()
    assert f"DATASET={name}" in make_around(layout.manifest, "flows")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "-a", "_a", ".a", "a/b", "a b", "a\nb", "a:b", "a$b", "a\u202eb", "é" * 101],
)
def test_other_names_are_refused(name):
    with refuses("bad-name", repr(name[:80])):
        DatasetLayout(Path("out"), name)


@given(st.text(max_size=30))
def test_a_name_is_one_part_of_a_path_and_one_word(name):
    if is_dataset_name(name):
        path = Path("out") / name
        assert path.parent == Path("out") and path.name == name
        assert len(name.split()) == 1 and not name.startswith("-") and name.isprintable()
