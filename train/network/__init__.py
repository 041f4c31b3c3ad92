"""The parts of the video transformer."""
