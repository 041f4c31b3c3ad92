"""What the decoder predicts: one class a target, and the losses."""
