"""Samples for training and evaluation, made from stored clips."""
