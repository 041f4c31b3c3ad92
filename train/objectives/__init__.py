"""What the decoder predicts: one class per target, and the losses."""
