"""Read the headers of many videos in worker processes, which a damaged file may kill."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from preprocess.running.processes import results_of
from preprocess.video.headers import VideoHeader, read_header

BATCH_FILES = 64  # files in one task of a worker


def read_headers(
    video_root: Path, videos: list[str], workers: int
) -> Iterator[tuple[str, VideoHeader | str]]:
    """Yield (video, header) of each video, or (video, reason) if it cannot be read, as they come.

    Args:
        video_root: folder that the paths are relative to.
        videos: paths of the videos.
        workers: number of processes that open files; a file that kills its process has that as
            its reason. 0 opens the files in this process, in order.
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
    # One by one, to find the file that kills its process.
    for (video,), headers in results_of(read, [[video] for video in suspects], 1):
        yield video, "kills the process that opens it" if headers is None else headers[0]


def _read_batch(video_root: Path, videos: list[str]) -> list[VideoHeader | str]:
    return [read_header(video_root, video) for video in videos]
