"""Flax models: one architecture a file, each with `build(...)`."""
