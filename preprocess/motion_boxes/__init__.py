"""From the motion maps of a clip to a box for each frame."""
