"""Counter-based random numbers: a key gives the same numbers in any process and any order."""

from __future__ import annotations

import hashlib

import numpy as np


def counter_generator(*key: int | str) -> np.random.Generator:
    """Make a generator that depends only on `key`, such as (seed, epoch, clip_id, view).

    It is Philox with the BLAKE2b hash of the key, so similar keys give independent numbers. Workers
    have no random state: the view of a clip in an epoch does not depend on which worker reads it.

    The type and the place of each part count: (1, "2"), ("1", 2) and (12,) are different keys.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for part in key:
        assert isinstance(part, (int, np.integer, str)), f"key part of type {type(part).__name__}"
        text = f"s{part}" if isinstance(part, str) else f"i{int(part)}"
        encoded = text.encode()
        hashed.update(len(encoded).to_bytes(8, "little"))
        hashed.update(encoded)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashed.digest(), "little")))
