"""Frozen models of others as feature extractors: V-JEPA 2, Hiera, and the image models of timm."""
