"""A run: the stages wired to one configuration and one folder."""

from dct_augment.pipeline.run import Run

__all__ = ["Run"]
