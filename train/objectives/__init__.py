"""What is predicted beside pixels: trajectories, motion and shape."""
