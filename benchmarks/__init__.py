"""What is measured, each figure beside the ceiling of the same run: `python -m benchmarks`."""
