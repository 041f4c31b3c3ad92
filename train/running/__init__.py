"""What surrounds a training loop: command-line options, processes, checkpoints, logs, folders."""
