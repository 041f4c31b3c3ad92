"""Weights that come in and go out: ours, VideoMAE's, Hugging Face's, shares of ZeRO."""
