"""Leases: which worker may write which shard, on a folder that several machines see.

A lease is a folder with a name that is used once, OUT/DATASET/.leases/00012-6f1a09c2. The run
makes it (mkdir takes effect for one caller alone), hands it to one worker, and ends it by deleting
it. The worker writes its shards there, whole and with their checksums. Only the run moves them to
their final names, and only out of a lease that it has not ended. A worker that was given up for
lost, and writes on, therefore reaches no shard.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from shared.shard_index import shard_name

PROBE_NAME = "probe"


class Leases:
    """The leases of one run.

    Args:
        folder: folder of the leases; what a killed run left there is deleted.

    Attributes:
        folder: the folder, absolute.
        probe: a file that tells a worker, by its content, whether it sees this folder.
        probe_text: the content of the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).resolve()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.probe = self.folder / PROBE_NAME
        self.probe_text = secrets.token_hex(16)
        self.probe.write_text(self.probe_text)

    def take(self, shard: int) -> Path:
        """The folder of a new lease of a shard."""
        lease = self.folder / f"{Path(shard_name(shard)).stem}-{secrets.token_hex(4)}"
        lease.mkdir()
        return lease

    def end(self, lease: Path) -> None:
        """End a lease: what was written there is deleted."""
        shutil.rmtree(lease, ignore_errors=True)

    def close(self) -> None:
        """End all leases."""
        shutil.rmtree(self.folder, ignore_errors=True)


def sees(probe: Path, text: str) -> bool:
    """Whether this machine sees the folder of the leases that has the probe."""
    try:
        return probe.read_text() == text
    except (OSError, UnicodeDecodeError):
        return False
