"""What a trained model is worth: scores of clips, accuracies, classes, frozen features."""
