"""Decoders and flow workers: what they do, what they are told and say, where they run."""
