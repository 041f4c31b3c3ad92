"""Recipes: the options of a run as dataclasses, read from TOML and checked."""
