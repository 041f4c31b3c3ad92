"""Parts of datasets: UCF14 and HMDB14, their class maps, and Mini-Kinetics-200."""

import csv

import pytest
from errors import refuses
from test_annotations import K400_COLUMNS, csv_text, read, what, write

from preprocess.annotations.class_subset import only_classes
from preprocess.annotations.dataset_spec import SPEC_FOLDER, read_spec
from train.evaluation.class_map import COLUMNS, read_class_map

HMDB51 = list(read_spec("hmdb51").labels)


def ucf_files(folder, names):
    listed = [f"{number} {name}" for number, name in enumerate(names, start=1)]
    write(folder, "classInd.txt", "\n".join(listed))
    clips = [f"{name}/v_{name}_g08_c01.avi {n}" for n, name in enumerate(names, start=1)]
    write(folder, "trainlist01.txt", "\n".join(clips))
    return folder


def test_only_the_listed_classes_are_left_and_numbered_in_the_order_of_the_list(tmp_path):
    spec = read_spec("ucf14")
    names = ["Punch", "ApplyEyeMakeup", *sorted(set(spec.only) - {"Punch"})]
    found = only_classes(read("ucf14", ucf_files(tmp_path, names)), spec)
    assert found.classes.label == list(spec.only) and found.classes.flip_x == list(range(14))
    assert {name: label for name, _, _, label in what(found)} == {
        f"v_{name}_g08_c01": number for number, name in enumerate(spec.only)
    }
    assert any("14 of 15 classes: 1 clip" in note for note in found.notes)


def test_a_class_that_the_official_files_lack_is_named(tmp_path):
    annotations = read("ucf14", ucf_files(tmp_path, ["Archery", "Biking"]))
    with refuses("unknown-name", "ucf14.toml", "RockClimbingIndoor", "Archery, Biking"):
        only_classes(annotations, read_spec("ucf14"))


@pytest.mark.parametrize(
    ("source", "file", "count"), [("ucf14", "ucf14-hmdb7", 7), ("hmdb14", "hmdb14-ucf7", 7)]
)
def test_class_maps_name_classes_of_both_datasets(source, file, count):
    learned = list(read_spec(source).only)
    path = SPEC_FOLDER / f"{file}.csv"
    rows = list(csv.DictReader(path.open()))
    tested = HMDB51 if source == "ucf14" else list(read_spec("ucf14").only)
    mapped = read_class_map(path, learned, tested)
    assert len(learned) == 14 and len(rows) == len(mapped.names) == count
    assert len(mapped.others) == 7 and tuple(rows[0]) == COLUMNS


def test_both_maps_pair_the_same_classes():
    pairs = {}
    for file, turned in (("ucf14-hmdb7", False), ("hmdb14-ucf7", True)):
        for row in csv.DictReader((SPEC_FOLDER / f"{file}.csv").open()):
            ucf, hmdb = (row[column] for column in (COLUMNS[::-1] if turned else COLUMNS))
            assert pairs.setdefault(ucf, hmdb) == hmdb
    assert set(pairs) <= set(read_spec("ucf14").only)
    assert set(pairs.values()) <= set(read_spec("hmdb14").only) <= set(HMDB51)


def mini_kinetics(folder, train_ids, val_ids="v1\n"):
    rows = [["yoga", "t1", 0, 10, "train", 0], ["archery", "t2", 5, 15, "train", 0],
            ["zumba", "t3", 0, 10, "train", 0]]  # fmt: skip
    write(folder, "train.csv", csv_text(K400_COLUMNS, rows))
    write(folder, "val.csv", csv_text(K400_COLUMNS, [["yoga", "v1", 3, 13, "val", 0]]))
    write(folder, "train_ytid_list.txt", train_ids)
    write(folder, "val_ytid_list.txt", val_ids)
    return folder


def test_mini_kinetics_keeps_the_listed_ids_and_numbers_their_classes(tmp_path):
    found = read("mk200", mini_kinetics(tmp_path, "t1\r\nt2\r\ngone\r\n"))
    assert what(found) == [
        ("t1_000000_000010", "t1_000000_000010", "train", 1),
        ("t2_000005_000015", "t2_000005_000015", "train", 0),
        ("v1_000003_000013", "v1_000003_000013", "val", 1),
    ]
    assert found.classes.label == ["archery", "yoga"]
    assert "train.csv lacks 1 id of the list of train" in found.notes


def test_mini_kinetics_without_a_listed_clip_names_both_files(tmp_path):
    with refuses("no-match", "train.csv", "train_ytid_list.txt"):
        read("mk200", mini_kinetics(tmp_path, "elsewhere\n"))
    (tmp_path / "val_ytid_list.txt").unlink()
    mini_kinetics(tmp_path, "t1\n")
    (tmp_path / "val_ytid_list.txt").unlink()
    with refuses("missing-file", "val_ytid_list.txt"):
        read("mk200", tmp_path)
