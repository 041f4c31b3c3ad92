"""A boxes shard opens with h5py and numpy alone, by the lines of the README."""

import re
import subprocess
import sys
from pathlib import Path

from dataset_fixtures import make_dataset, run_boxes, run_flows

from shared.shard_index import read_index

ROOT = Path(__file__).resolve().parents[1]
SHARD = "out/toy/boxes/00000.h5"  # as the README has it


def lines_of_readme() -> str:
    """The README's example: the one block of Python that opens a shard."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    [block] = [block for block in blocks if SHARD in block]
    return block


def test_ten_lines_read_a_boxes_shard(tmp_path):
    layout = make_dataset(tmp_path, num_clips=3)
    assert run_flows(layout).exit_code == 0
    assert run_boxes(layout).exit_code == 0
    reader = lines_of_readme()
    code = (
        "import sys\n"
        "for name in ('torch', 'ray', 'av', 'cv2', 'shared', 'preprocess', 'train'):\n"
        "    sys.modules[name] = None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + reader.replace(SHARD, str(layout.boxes / "00000.h5"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:3] for line in lines] == [
        ["clip-0", "48x32", "8"],
        ["clip-1", "48x32", "9"],
        ["clip-2", "48x32", "10"],
    ]
    assert all(0 < float(line[3]) <= 1 for line in lines)
    assert len(reader.strip().splitlines()) <= 12
    assert read_index(layout.boxes).num_clips == 3
