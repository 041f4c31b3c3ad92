"""Benchmarks: each prints headline figures beside those of a peer."""
