"""Randomness from a counter: the same key gives the same numbers in any process and any order."""

from __future__ import annotations

import hashlib

import numpy as np


def counter_generator(*key: int | str) -> np.random.Generator:
    """A generator that depends on `key` alone, such as (seed, epoch, clip_id, view).

    Philox keyed by the BLAKE2b hash of the key, so that neighbouring keys share nothing and no
    worker carries state: what a clip looks like in an epoch does not depend on who reads it when.

    Parts are told apart by type and by place: (1, "2") and ("1", 2) and (12,) all differ.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for part in key:
        assert isinstance(part, (int, np.integer, str)), f"key part of type {type(part).__name__}"
        text = f"s{part}" if isinstance(part, str) else f"i{int(part)}"
        encoded = text.encode()
        hashed.update(len(encoded).to_bytes(8, "little"))
        hashed.update(encoded)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashed.digest(), "little")))
