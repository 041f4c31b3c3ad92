"""A boxes shard opens with h5py and numpy alone, in ten lines."""

import subprocess
import sys

from dataset_fixtures import make_dataset, run_boxes, run_flows

from shared.shard_index import read_index

READER = """\
import h5py
import numpy as np

with h5py.File(path) as shard:
    for clip_id, (first, last), (width, height) in zip(
        shard["clip/id"].asstr(), shard["clip/frames"], shard["clip/size"]
    ):
        boxes = shard["box/xyxy"][first:last]  # x1 y1 x2 y2 in pixels of the video, NaN: no motion
        seconds = shard["frame/pts_seconds"][first:last]
        share = np.nanmean((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        print(clip_id, f"{width}x{height}", len(seconds), f"{share / (width * height):.2f}")
"""


def test_ten_lines_read_a_boxes_shard(tmp_path):
    layout = make_dataset(tmp_path, num_clips=3)
    assert run_flows(layout).exit_code == 0
    assert run_boxes(layout).exit_code == 0
    code = (
        "import sys\n"
        "for name in ('torch', 'ray', 'av', 'cv2', 'shared', 'preprocess', 'train'):\n"
        "    sys.modules[name] = None\n"
        f"path = {str(layout.boxes / '00000.h5')!r}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + READER], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:3] for line in lines] == [
        ["clip-0", "48x32", "8"],
        ["clip-1", "48x32", "9"],
        ["clip-2", "48x32", "10"],
    ]
    assert all(0 < float(line[3]) <= 1 for line in lines)
    assert len(READER.strip().splitlines()) <= 12
    assert read_index(layout.boxes).num_clips == 3
