"""Shards of videos that were not preprocessed, made by the commands of preprocess/."""
