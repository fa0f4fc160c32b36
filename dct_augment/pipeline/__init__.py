"""A run: the stages wired to one configuration, what is missing, its cost. `Run` is imported when it is first used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dct_augment.pipeline.run import Run

__all__ = ["Run"]


def __getattr__(name: str) -> Any:
    """Import `Run`, and with it torch, when it is first used (PEP 562): a look at the data needs neither."""
    if name != "Run":
        raise AttributeError(f"module 'dct_augment.pipeline' has no attribute {name!r}")
    from dct_augment.pipeline.run import Run

    return Run
