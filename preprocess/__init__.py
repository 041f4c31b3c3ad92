"""Turns videos into HDF5 shards: frames, motion maps, motion boxes."""

from shared.threads import spin_briefly

spin_briefly()
