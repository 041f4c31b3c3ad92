"""The run of `boxes`: what it reads, and the arrays of the shards that it writes."""
