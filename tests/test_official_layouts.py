"""Every dataset of the table as people have it on disk: official files and videos in, rows out."""

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_annotations import EPIC_COLUMNS, K400_COLUMNS, csv_text, epic_row

from preprocess.annotations.clip_rows import read_missing
from preprocess.manifest import main
from shared.manifest import read_manifest

BOM = b"\xef\xbb\xbf"
DIVES = [["Back", "15som", "05Twis", "FREE"], ["Inward", "25som", "NoTwis", "PIKE"]]
SSV2 = "something-something-v2-"


def quoted(columns: list[str], rows: list[list]) -> str:
    """CSV with every value in quotes, as pandas and spreadsheets write it on request."""
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([columns, *rows])
    return stream.getvalue()


def ssv2_entry(clip_id: str, template: str, thing: str) -> dict:
    label = template.replace("[something]", thing).lower()
    return {"id": clip_id, "label": label, "template": template, "placeholders": [thing]}


# dataset: (official files, files below the video root, rows as
#           clip_id -> (video, split, label, start and stop seconds), clips without a video)
LAYOUTS: dict[str, tuple[dict, list[str], dict, list[str]]] = {
    "ssv2": (
        {
            f"{SSV2}labels.json": {"Holding something": "1", "Moving something, slowly": "0"},
            f"{SSV2}train.json": [
                ssv2_entry("0042", "Holding [something]", "a cup"),
                ssv2_entry("42", "Moving [something], slowly", "a pen"),
                ssv2_entry("43", "Holding [something]", "a mug"),
            ],
            f"{SSV2}test.json": [{"id": "7"}],
        },
        ["20bn/0042.webm", "20bn/0042.mp4", "20bn/42.mp4", "20bn/7.webm", "20bn/.43.webm"],
        {
            "0042": ("20bn/0042.webm", "train", 1, None, None),
            "42": ("20bn/42.mp4", "train", 0, None, None),
            "7": ("20bn/7.webm", "test", None, None, None),
        },
        ["43"],
    ),
    "epic100": (
        {
            "EPIC_100_verb_classes.csv": csv_text(
                ["id", "key", "instances", "category"],
                [[0, "take", "['take', 'get-from']", "retrieve"], [1, "put", "['put']", "leave"]],
            ),
            "EPIC_100_noun_classes.csv": csv_text(
                ["id", "key", "instances", "category"], [[0, "tap", "['tap', 'tap:hot']", "x"]]
            ),
            "EPIC_100_video_info.csv": "video_id,duration,fps,resolution\nP01_101,9.5,50.0,1x1\n",
            "EPIC_100_train.csv": csv_text(
                EPIC_COLUMNS,
                [
                    epic_row("P01_101_2", "00:00:02.5", "00:00:04.123", 1, 0),
                    epic_row("P01_101_0", "00:00:00", "0:00:03.25", 0, 0),
                    epic_row("P02_01_0", "01:00:00.00", "01:00:01.00", 0, 0),
                ],
            ),
        },
        ["P01/videos/P01_101.MP4"],
        {
            "P01_101_0": ("P01/videos/P01_101.MP4", "train", 0, 0.0, 3.25),
            "P01_101_2": ("P01/videos/P01_101.MP4", "train", 1, 2.5, 4.123),
        },
        ["P02_01_0"],
    ),
    "k400": (
        {
            "kinetics_train.csv": quoted(
                K400_COLUMNS,
                [
                    ["playing, guitar", "-a_B", 3, 13, "train", 0],
                    ["abseiling", "--x", 0, 10, "train", 0],
                    ["abseiling", "gone", 123456, 123466, "train", 1],
                ],
            ),
            "validate.csv": csv_text(K400_COLUMNS, [["abseiling", "=1+1", 7, 17, "validate", 0]]),
        },
        [
            "train/playing_guitar/-a_B_000003_000013.mkv",
            "--x_000000_000010.mp4",
            "val/=1+1_000007_000017.mp4",
        ],
        {
            "-a_B_000003_000013": (
                *("train/playing_guitar/-a_B_000003_000013.mkv", "train", 1, None, None),
            ),
            "--x_000000_000010": ("--x_000000_000010.mp4", "train", 0, None, None),
            "=1+1_000007_000017": ("val/=1+1_000007_000017.mp4", "val", 0, None, None),
        },
        ["gone_123456_123466"],
    ),
    "ucf101": (
        {
            "ucfTrainTestlist/classInd.txt": "1 ApplyEyeMakeup\n2 HandstandPushups\n",
            "ucfTrainTestlist/trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\n"
            "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\n",
            "ucfTrainTestlist/testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n",
        },
        [
            "UCF-101/HandstandPushups/v_HandStandPushups_g08_c01.avi",
            "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        ],
        {
            "v_ApplyEyeMakeup_g08_c01": (
                *("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "train", 0),
                *(None, None),
            ),
            "v_HandStandPushups_g08_c01": (
                *("UCF-101/HandstandPushups/v_HandStandPushups_g08_c01.avi", "train", 1),
                *(None, None),
            ),
        },
        ["v_ApplyEyeMakeup_g01_c01"],
    ),
    "hmdb51": (
        {
            "testTrainMulti_7030_splits/wave_test_split1.txt": "#1 [a]!_&;_wave_f.avi 2 \n"
            "two  blanks (x)_wave.avi 1 \nneither_wave.avi 0 \n",
            "testTrainMulti_7030_splits/walk_test_split1.txt": "same_name.avi 1 \n",
        },
        [
            "wave/#1 [a]!_&;_wave_f.avi",
            "wave/two  blanks (x)_wave.avi",
            "wave/neither_wave.avi",
            "wave/same_name.avi",
            "walk/same_name.avi",
        ],
        {
            "#1 [a]!_&;_wave_f": ("wave/#1 [a]!_&;_wave_f.avi", "test", 50, None, None),
            "two  blanks (x)_wave": ("wave/two  blanks (x)_wave.avi", "train", 50, None, None),
            "same_name": ("walk/same_name.avi", "train", 49, None, None),
        },
        [],
    ),
    "diving48": (
        {
            "Diving48_vocab.json": DIVES,
            "Diving48_V2_train.json": [
                {"vid_name": "aQ-x_00001", "label": 1},
                {"vid_name": "aQ-x_00002", "label": 0, "start_frame": 0, "end_frame": None},
            ],
            "Diving48_V2_test.json": [{"vid_name": "b_00000", "label": 0}],
        },
        ["rgb/aQ-x_00001.mp4", "rgb/aQ-x_00002.mp4"],
        {
            "aQ-x_00001": ("rgb/aQ-x_00001.mp4", "train", 1, None, None),
            "aQ-x_00002": ("rgb/aQ-x_00002.mp4", "train", 0, None, None),
        },
        ["b_00000"],
    ),
}


def put(folder: Path, files: dict, as_windows: bool) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content, indent=1)
        text = "\n".join(text.splitlines()) + "\n"
        path.write_bytes(BOM + text.replace("\n", "\r\n").encode() if as_windows else text.encode())
    return folder


@pytest.mark.parametrize("as_windows", [False, True], ids=["unix", "bom-crlf"])
@pytest.mark.parametrize("dataset", LAYOUTS)
def test_official_files_become_rows(tmp_path, dataset, as_windows):
    files, videos, expected, missing = LAYOUTS[dataset]
    annotations = put(tmp_path / "annotations", files, as_windows)
    for video in videos:
        (tmp_path / "videos" / video).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / video).touch()
    given = ["--dataset", dataset, "--out", tmp_path, "--annotations", annotations]
    done = CliRunner().invoke(main, [*map(str, given), "--videos", str(tmp_path / "videos")])
    assert done.exit_code == 0, done.output
    found = {
        clip.clip_id: (clip.video, clip.split, clip.label, clip.start_seconds, clip.stop_seconds)
        for clip in read_manifest(tmp_path / dataset / "manifest.csv")
    }
    assert found == expected
    lacking = read_missing((tmp_path / dataset / "missing.csv").read_text())
    assert [clip_id for clip_id, *_ in lacking] == missing
    assert f"{len(expected):9}{len(missing):9}" in done.output.split("all  ")[1]
