"""The store of a run whose `output` is a URL, and what of its folder each machine keeps for itself."""

from dct_augment.config import Config
from dct_augment.remote.store import NoStore, Store

_OF_THIS_MACHINE = ("benchmark/pixels", "checks/weights.json")
"""What each machine makes of its own files: prepared pictures, and hashes of models by their paths."""


def open_store(config: Config) -> Store | NoStore:
    """Open the store of a run.

    Raises:
        StoreError: a package is missing.
    """
    if config.url is None:
        return NoStore()
    return Store(config.url, _OF_THIS_MACHINE, config.runner.lease)
