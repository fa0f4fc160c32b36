"""Synthetic training images for classes that have few, by Discriminative Class Tokens."""

__version__ = "0.2.0"
