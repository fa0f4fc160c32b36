"""Rebuilds every shipped Pocket weight from seeds: `python -m dct_augment.pocket.build --help`."""
