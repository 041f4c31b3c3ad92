"""Evaluates models: scores of clips, accuracies, class maps, features of a frozen encoder."""
