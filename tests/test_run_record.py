"""Locks, logs, atomic files and the one-line errors of commands."""

import errno
import fcntl
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from errors import refused, refuses

from shared.errors import InputError, user_errors
from shared.files import remove_leftovers, write_atomically
from shared.layout import DatasetLayout
from shared.run_record import JsonlLog, RunLock, read_jsonl, write_options

ROOT = Path(__file__).resolve().parents[1]
HOLD_LOCK = """
import sys, time
from pathlib import Path
from shared.run_record import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(tmp_path / ".lock")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_second_run_is_refused_naming_the_first(tmp_path, holder):
    with refuses("locked", tmp_path, f"process {holder.pid}"), RunLock(tmp_path / ".lock"):
        pass


def test_lock_of_a_killed_run_does_not_block(tmp_path, holder):
    holder.kill()
    holder.wait()
    with RunLock(tmp_path / ".lock"):
        pass


def test_lock_can_be_taken_again(tmp_path):
    for _ in range(2):
        with RunLock(tmp_path / ".lock"):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    num_open = len(os.listdir("/proc/self/fd"))
    with refuses("not-supported", tmp_path / ".lock", os.strerror(number)):
        RunLock(tmp_path / ".lock").__enter__()
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_a_path_that_is_no_utf8_is_accepted_on_the_command_line(tmp_path):
    videos = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(videos)
    open(videos + b"/0.mp4", "x").close()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "preprocess.manifest"),
            *("--dataset", "mine", "--out", tmp_path, "--videos", videos),
        ],
        cwd=ROOT,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
    )
    assert done.returncode == 0 and b"caf\\udce9" in done.stdout, done.stderr
    assert (tmp_path / "mine/manifest.csv").is_file()


def test_log_leaves_out_a_line_cut_short(tmp_path):
    log = JsonlLog(tmp_path / "log.jsonl")
    log.write({"step": 1, "clip": "ü"})
    log.write({"step": 2})
    log.close()
    with open(log.path, "a") as stream:
        stream.write('{"step": 3, "lo')
    assert read_jsonl(log.path) == [{"step": 1, "clip": "ü"}, {"step": 2}]
    assert read_jsonl(tmp_path / "none.jsonl") == []
    # The next record starts on a new line.
    log = JsonlLog(log.path)
    log.write({"step": 3})
    log.close()
    assert read_jsonl(log.path) == [{"step": 1, "clip": "ü"}, {"step": 2}, {"step": 3}]
    log.path.write_text('{"step": 1, "lo')
    JsonlLog(log.path).close()
    assert log.path.read_bytes() == b""


def test_a_damaged_line_of_a_log_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    for damaged in (b"\0" * 40, b"\xff\xfe", b'{"step": 2'):
        path.write_bytes(b'{"step": 1}\n' + damaged + b'\n{"step": 3}\n')
        with refuses("damaged-file", path, "line 2"):
            read_jsonl(path)
        assert read_jsonl(path, skip_damaged=True) == [{"step": 1}, {"step": 3}]


def test_options_record_versions_and_commit(tmp_path):
    write_options(tmp_path / "options.json", {"sigma": 3.0, "out": Path("out")})
    record = json.loads((tmp_path / "options.json").read_text())
    assert record["options"] == {"sigma": 3.0, "out": "out"}
    assert {"python", "numpy", "h5py"} <= set(record["versions"])


def test_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two" and os.listdir(path.parent) == ["file"]


FILL_DISK = """
import resource, signal, sys
from pathlib import Path
from shared.errors import user_errors
from shared.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
@user_errors
def command():
    write_atomically(Path(sys.argv[1]), b"x" * 5000)
command()
"""


def test_full_disk_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    done = subprocess.run(
        [sys.executable, "-c", FILL_DISK, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    refused(done, "no-space")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000  # only the child was limited


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / ".00000.h5.abc.tmp").write_bytes(b"half")
    (tmp_path / "00000.h5").write_bytes(b"whole")
    assert len(os.listdir(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["00000.h5"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("wrong-type", "found x; y is allowed"), 1),
        (OSError(errno.EACCES, "Permission denied", "somewhere"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_user_errors_end_without_a_traceback(error, status, capsys):
    @user_errors
    def command():
        raise error

    with pytest.raises(SystemExit) as caught:
        command()
    assert caught.value.code == status
    assert "Traceback" not in capsys.readouterr().err


def test_our_errors_keep_their_traceback():
    @user_errors
    def command():
        raise AssertionError("a bug")

    with pytest.raises(AssertionError):
        command()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b"])
def test_dataset_names_cannot_leave_out(tmp_path, name):
    with refuses("bad-name", repr(name)):
        DatasetLayout(tmp_path, name)
