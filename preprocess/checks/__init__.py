"""Checks of a finished dataset and of a single shard."""
