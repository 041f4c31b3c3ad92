"""Draws the motion that was found in a video, for `preprocess.show`."""
