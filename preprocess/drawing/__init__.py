"""Pictures of what was found in a video, for `preprocess.show`."""
