"""Make some shards of a finished dataset again; the other shards do not change."""
