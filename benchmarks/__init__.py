"""What tsam_jax costs: `python -m benchmarks`; see README.md."""
