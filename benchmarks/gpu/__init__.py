"""What the package does on a GPU at full size, measured in one command: `python -m benchmarks.gpu`."""
