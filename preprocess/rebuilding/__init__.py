"""Make some shards of a finished dataset again and put them in place, the rest untouched."""
