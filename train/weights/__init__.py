"""Import and export of weights: of this project, VideoMAE, Hugging Face and ZeRO checkpoints."""
