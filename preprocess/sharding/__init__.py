"""Shards: which clip goes where, how they fill and are published, what is there and whole."""
