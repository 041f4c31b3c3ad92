"""Rows of a manifest that would reach elsewhere: refused with the row; nothing is asked or read."""

import os
import socket
import threading
from contextlib import contextmanager

import pytest
from dataset_fixtures import run_flows
from video_fixtures import render_video

from shared.errors import EXIT_SET_ASIDE
from shared.layout import DatasetLayout
from shared.run_record import read_jsonl

HEADER = "clip_id,video,start_seconds,stop_seconds,split,label,verb,noun\n"


@contextmanager
def listening():
    """A server on loopback: (port, what has called)."""
    calls = []
    server = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                calls.append(server.accept()[1])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], calls
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.fixture
def layout(tmp_path) -> DatasetLayout:
    """One good video, and one outside the root that must not be read."""
    layout = DatasetLayout(tmp_path / "out", "hostile")
    render_video(layout.videos / "good.mp4", 4, size=(32, 32))
    outside = render_video(tmp_path / "outside.mp4", 4, size=(32, 32))
    os.utime(outside, (1, 1))  # a read would change the first, where the disk keeps it
    return layout


ROWS = {  # what is refused by its name alone, as soon as the manifest is read
    "parent": "../../outside.mp4",
    "hidden parent": "a/../../../outside.mp4",
    "absolute": "{tmp}/outside.mp4",
    "http": "http://127.0.0.1:{port}/a.mp4",
    "https": "https://127.0.0.1:{port}/a.mp4",
    "rtmp": "rtmp://127.0.0.1:{port}/a",
    "file": "file:///etc/passwd",
    "concat": "concat:good.mp4|../outside.mp4",
    "pipe": "pipe:0",
    "subfile": "subfile,,start,0,end,9,,:{tmp}/outside.mp4",
    "backslash": "..\\\\outside.mp4",
    "nul": "good.mp4\x00.txt",
    "newline": '"good\n.mp4"',
    "long": "a" * 4000,
    "long folders": "/".join(["abc"] * 1000) + ".mp4",
}


def rows(*videos: str) -> str:
    return HEADER + "".join(f"clip-{n},{video},,,train,,,\n" for n, video in enumerate(videos))


@pytest.mark.parametrize("video", ROWS.values(), ids=ROWS.keys())
def test_hostile_names_are_refused_with_their_row(layout, tmp_path, video):
    with listening() as (port, calls):
        video = video.replace("{port}", str(port)).replace("{tmp}", str(tmp_path))
        if video.startswith("subfile"):
            video = f'"{video}"'
        layout.manifest.write_text(rows("good.mp4", video))
        done = run_flows(layout)
        assert done.exit_code == 1 and "row" in done.output, done.output
        assert "Traceback" not in done.output and len(done.output) < 1500
    assert not calls and not layout.frames.exists()
    assert (tmp_path / "outside.mp4").stat().st_atime == 1


def test_hostile_files_are_set_aside_each(layout, tmp_path):
    """Names that are fine, of files that are not."""
    with listening() as (port, calls):
        address = f"http://127.0.0.1:{port}"
        files = {
            "m3u8.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/a.ts\n",
            "hls.ts": f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/outside.mp4\n#EXT-X-ENDLIST\n",
            "concat.mp4": f"ffconcat version 1.0\nfile {tmp_path}/outside.mp4\n",
            "sdp.mp4": f"v=0\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n",
            "dash.mp4": f'<?xml version="1.0"?><MPD><BaseURL>{address}/</BaseURL></MPD>',
        }
        for name, text in files.items():
            (layout.videos / name).write_text(text)
        (layout.videos / "link.mp4").symlink_to(tmp_path / "outside.mp4")
        (layout.videos / "folder").symlink_to(tmp_path)
        (layout.videos / "loop.mp4").symlink_to("loop.mp4")
        os.mkfifo(layout.videos / "fifo.mp4")
        (layout.videos / "null.mp4").symlink_to("/dev/zero")
        others = ["link.mp4", "folder/outside.mp4", "loop.mp4", "fifo.mp4", "null.mp4"]
        names = [*files, *others]
        layout.manifest.write_text(rows("good.mp4", *names))
        done = run_flows(layout)
        assert done.exit_code == EXIT_SET_ASIDE, done.output
    assert not calls
    failures = read_jsonl(layout.failures)
    assert [record["video"] for record in failures] == names
    assert all(record["reason"] for record in failures)
    assert (tmp_path / "outside.mp4").stat().st_atime == 1
