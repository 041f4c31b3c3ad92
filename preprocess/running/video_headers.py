"""Read the headers of many videos in worker processes, some of which a damaged file may end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from preprocess.running.processes import results_of
from preprocess.video.headers import VideoHeader, read_header

BATCH_FILES = 64  # handed to a worker at a time


def read_headers(
    video_root: Path, videos: list[str], workers: int
) -> Iterator[tuple[str, VideoHeader | str]]:
    """(video, header or reason) of each video, as they come.

    With `workers` the files are opened in other processes, and one that makes its process die is
    reported as such; with 0 they are opened here, in order.
    """
    if workers == 0:
        yield from ((video, read_header(video_root, video)) for video in videos)
        return
    read = partial(_read_batch, video_root)
    batches = [videos[i : i + BATCH_FILES] for i in range(0, len(videos), BATCH_FILES)]
    suspects: list[str] = []
    for batch, headers in results_of(read, batches, workers):
        if headers is None:
            suspects += batch
        else:
            yield from zip(batch, headers, strict=True)
    # One by one, so that the death falls on the file that caused it.
    for (video,), headers in results_of(read, [[video] for video in suspects], 1):
        yield video, "kills the process that opens it" if headers is None else headers[0]


def _read_batch(video_root: Path, videos: list[str]) -> list[VideoHeader | str]:
    return [read_header(video_root, video) for video in videos]
