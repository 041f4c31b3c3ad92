"""Computes a motion box for each frame of a clip from the clip's motion maps."""
