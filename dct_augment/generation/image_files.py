"""The files that tars hold of generated images: one format each, always the same bytes."""

import io
import zlib
from typing import Any

from PIL import Image

from dct_augment.images import content
from dct_augment.records import ImageFile

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {"compress_type": zlib.Z_RLE}),
    "webp": ("WEBP", {"lossless": True}),
    "jpg": ("JPEG", {"quality": 95}),
}
"""By the ending of a file, Pillow's name of its format, and how it is saved.

Of photographs, PNG without a search for repetitions has as many bytes, in a quarter of the time.
"""

_LOSSY = ("jpg",)


def encode(picture: Image.Image, image_format: str) -> ImageFile:
    """Encode a picture as a file; its hash is of the pixels as who reads the file has them."""
    pillow_format, options = FORMATS[image_format]
    buffer = io.BytesIO()
    picture.save(buffer, format=pillow_format, **options)
    return ImageFile(buffer.getvalue(), content(Image.open(buffer) if image_format in _LOSSY else picture))
