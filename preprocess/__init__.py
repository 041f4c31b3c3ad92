"""Turns videos into HDF5 shards: frames, motion maps, motion boxes."""

from shared.threads import wait_asleep

wait_asleep()
