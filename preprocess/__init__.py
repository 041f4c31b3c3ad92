"""Turns videos into HDF5 shards: frames, motion maps, motion boxes."""
