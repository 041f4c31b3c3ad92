"""TOML tables as typed dataclasses."""
