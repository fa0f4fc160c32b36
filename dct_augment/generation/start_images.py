"""Start images as latents: the training photos that generated images start from."""

from collections.abc import Iterable, Mapping

import torch

from dct_augment.diffusion import Backend
from dct_augment.errors import UnreadableImageError
from dct_augment.images import square
from dct_augment.records import Example

_MOST_KEPT = 1024  # latents of photos; those of SDXL in float32 are 256 MB


class StartImages:
    """The latents of training photos, encoded when they are first needed, in batches, and kept."""

    def __init__(self, backend: Backend, photos: Iterable[Example]) -> None:
        self._backend = backend
        self._photos = {photo.key: photo for photo in photos}
        self._latents: dict[str, torch.Tensor] = {}
        self._problems: dict[str, str] = {}

    def latents(self, keys: Iterable[str]) -> dict[str, torch.Tensor]:
        """Encode the middle squares of photos: the mean (C, h, w) of the latents of each, by key.

        A photo that cannot be read is left out; `problem` says why.
        """
        wanted = list(dict.fromkeys(keys))
        pictures: dict[str, torch.Tensor] = {}
        for key in wanted:
            if key not in self._latents and key not in self._problems:
                try:
                    pictures[key] = square(self._photos[key].open(), self._backend.image_size)
                except UnreadableImageError as error:
                    self._problems[key] = f"start image {key!r} cannot be read: {error}"
        found = {key: self._latents[key] for key in wanted if key in self._latents}
        if pictures:
            means, _ = self._backend.encode_images(torch.cat(list(pictures.values())))
            found |= dict(zip(pictures, means, strict=True))
            self._keep(found)
        return found

    def problem(self, key: str) -> str:
        """Say why a photo has no latents; empty if it has, or was not asked for."""
        return self._problems.get(key, "")

    def _keep(self, latents: Mapping[str, torch.Tensor]) -> None:
        """Remember latents; the oldest are dropped where there are too many."""
        self._latents |= latents
        for key in list(self._latents)[:-_MOST_KEPT]:
            del self._latents[key]
