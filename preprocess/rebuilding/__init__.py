"""Make some shards of a finished dataset again; the others stay untouched."""
