"""Data sets on stores: what is below their URL is pulled once into the user's cache."""

from typing import TypeVar

from dct_augment.config import AnyDataset, DatasetOnDisk, ManifestDataset
from dct_augment.remote import downloads
from dct_augment.remote.urls import url_of

_Settings = TypeVar("_Settings", bound=AnyDataset)


def located(settings: _Settings) -> _Settings:
    """Give the settings of a data set with the folder of this machine in place of a URL.

    Of a table, all that is in its folder is pulled.

    Raises:
        StoreError: the store cannot be read.
    """
    url = url_of(settings.path) if isinstance(settings, DatasetOnDisk) else None
    if url is None:
        return settings
    if isinstance(settings, ManifestDataset):
        folder, _, table = url.rpartition("/")
        return settings.model_copy(update={"path": downloads.folder_of(folder) / table})
    return settings.model_copy(update={"path": downloads.folder_of(url)})
