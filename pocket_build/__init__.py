"""Rebuilds every shipped Pocket weight from seeds: `python -m pocket_build --help`."""
