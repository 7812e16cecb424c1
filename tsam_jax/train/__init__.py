"""Training: one loop for all methods, and the commands built on it."""
