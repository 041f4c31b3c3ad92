"""Boxes that people drew, in the formats they come in, and how well ours agree."""
