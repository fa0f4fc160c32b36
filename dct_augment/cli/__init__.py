"""The command line: the only package that prints."""

from dct_augment.cli.commands import app, main

__all__ = ["app", "main"]
