"""What goes on around a training loop: options, processes, progress, pictures, the run folder."""
