"""Reads the annotation files of a dataset and finds the video of each clip."""
