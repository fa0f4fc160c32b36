"""Images as text inside a page: a page with data URIs is one file and opens offline."""

import base64
import io

from PIL import Image


def png_data_uri(image: Image.Image, *, optimize: bool = False) -> str:
    """Return the image as a PNG in a data URI; `optimize` takes longer and makes it smaller."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=optimize)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
