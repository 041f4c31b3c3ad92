"""Benchmarks: each prints one headline figure beside what it is compared with."""
