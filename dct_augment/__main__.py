"""`python -m dct_augment` is `dct-augment`."""

from dct_augment.cli import main

main()
