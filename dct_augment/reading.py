"""Reads any picture as 8-bit RGB, upright, as a person sees it; or says in a sentence why it cannot be read."""

import io
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError

from dct_augment.errors import UnreadableImageError
from dct_augment.wording import reason_of

ValueRange = Literal["full", "12bit", "min_max"] | tuple[float, float]
"""What is black and what is white in pictures of more than 8 bits."""

_ENDINGS = "jpg jpeg jpe jfif png apng webp bmp dib gif tif tiff ppm pgm pbm pnm avif jp2 j2k tga qoi heic heif"
SUFFIXES = frozenset("." + ending for ending in _ENDINGS.split(" "))
"""What file names of pictures end in."""

USED_RANGE = "dct_augment_used_range"
"""In `info` of a picture that had more than 8 bits: its highest value, as a share of the range from black to white."""

_NOT_DECODED = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "FPX", "MIC", "PDF"})
"""Formats that Pillow knows but cannot decode by itself: it would start another program, or has none to start."""

_FULL_RANGE = {"I;16": 65535.0, "I;16L": 65535.0, "I;16B": 65535.0, "I;16N": 65535.0, "I": 65535.0, "F": 1.0}
"""The value of white, by Pillow's mode, for pictures of more than 8 bits. Netpbm and PNG store 16 bits as `I`, too."""

_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""Pillow decodes colours of 16 bits by their high bytes alone; in the other order of bytes it decodes the low ones."""

_ROUNDING = 1e-3  # float pictures may be this much outside of 0..1
_CHANNELS = (1, 3, 4)
_PIXEL_LIMIT = threading.Lock()


@dataclass(frozen=True)
class ImageReader:
    """How pictures become 8-bit RGB.

    The first frame is taken, turned upright by its EXIF orientation. Transparent parts show the background. Pictures of
    more than 8 bits are mapped from their value range to 0..255, all colours alike; CMYK and Lab are converted by their
    colour profile.

    Args:
        value_range: `full` is 0..65535 of 16-bit pictures and 0..1 of float pictures; `12bit` is 0..4095; `min_max` is
            what each picture itself has; or a pair (black, white), beyond which values are cut.
        background: a colour name or `#rrggbb`.
        max_pixels: larger pictures are not decoded.
    """

    value_range: ValueRange = "full"
    background: str = "white"
    max_pixels: int = 100_000_000

    def read(self, stored: Path | bytes) -> Image.Image:
        """Read a picture from a file or from its bytes.

        Raises:
            UnreadableImageError: it cannot be read, is too large, or its values are not in the range.
        """
        try:
            data = stored if isinstance(stored, bytes) else _bytes_of(stored)
        except OSError as error:
            raise UnreadableImageError(reason_of(error)) from error
        except ValueError as error:  # a path with a null byte, or one that is no text
            raise UnreadableImageError(f"its path is none: {error}") from error
        if not data:
            raise UnreadableImageError("the file is empty")
        return self._guarded(lambda: self._decode(data))

    def convert(self, image: Image.Image) -> Image.Image:
        """Convert an opened picture of any mode.

        Raises:
            UnreadableImageError: its data are damaged, it is too large, or its values are not in the range.
        """
        return self._guarded(lambda: self._convert(image))

    def convert_array(self, array: np.ndarray) -> Image.Image:
        """Convert an array (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4; 8-bit, 16-bit or float values.

        Raises:
            UnreadableImageError: another shape, or values that are not in the range.
        """
        return self._guarded(lambda: self._convert_array(array))

    def _guarded(self, decode: Callable[[], Image.Image]) -> Image.Image:
        """Call a decoder; whatever it raises over damaged data becomes one error."""
        try:
            return decode()
        except UnreadableImageError:
            raise
        except UnidentifiedImageError as error:
            raise UnreadableImageError("it is no picture of a known format") from error
        except Exception as error:  # decoders raise nearly everything over damaged bytes
            reason = " ".join(str(error).split()).rstrip(" .") or "no reason given"
            raise UnreadableImageError(f"it cannot be decoded: {reason} ({type(error).__name__})") from error

    def _decode(self, data: bytes) -> Image.Image:
        image = _open(data)
        if not _has_deep_colours(image):
            return self._convert(image)
        if self.value_range != "full":
            return self._convert_deep(image, data)
        converted = self._convert(image)
        if image.mode in ("RGB", "RGBA", "LA"):
            colours = [band for band in image.getbands() if band != "A"]
            highest = max(float(np.asarray(image.getchannel(band)).max()) for band in colours)
            converted.info[USED_RANGE] = (highest - (image.format == "PPM") / 2) / 255  # Netpbm's are rounded
        return converted

    def _convert_deep(self, image: Image.Image, data: bytes) -> Image.Image:
        """Map colours of 16 bits by the value range, all three alike; alpha is what it is."""
        low = _open(data)
        if not _swap_bytes(low):
            raise UnreadableImageError(
                f"its colours ({image.mode}) have more than 8 bits, and dataset.value_range: {self.value_range} cannot "
                "be applied to this kind; save it as PNG in RGB, or as 8-bit, or set dataset.value_range to full"
            )
        self._refuse_large(image)
        high_bytes, low_bytes = (np.asarray(_loaded(each)).astype(np.uint16) for each in (image, low))
        values = high_bytes << 8 | low_bytes
        scaled = self._scaled(values[..., :3], 65535.0)
        transparent = image.info.get("transparency")
        if values.shape[-1] == 4:
            scaled.putalpha(Image.fromarray(high_bytes[..., 3].astype(np.uint8)))
        elif isinstance(transparent, tuple):
            scaled.putalpha(Image.fromarray(np.where((values == transparent).all(-1), 0, 255).astype(np.uint8)))
        converted = self._convert(scaled)
        converted.info[USED_RANGE] = scaled.info[USED_RANGE]
        return converted

    def _refuse_large(self, image: Image.Image) -> None:
        width, height = image.size
        if width * height > self.max_pixels:
            raise UnreadableImageError(
                f"{width} x {height} pixels are more than dataset.max_pixels, which is {self.max_pixels}"
            )

    def _convert(self, image: Image.Image) -> Image.Image:
        self._refuse_large(image)
        image = _loaded(image)
        if image.mode in _FULL_RANGE:
            image = self._scaled_with_transparency(image)
        elif image.mode in ("CMYK", "LAB"):
            image = _to_srgb(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            ground = Image.new("RGBA", image.size, (*ImageColor.getrgb(self.background)[:3], 255))
            image = Image.alpha_composite(ground, image)
        return image if image.mode == "RGB" else image.convert("RGB")

    def _convert_array(self, array: np.ndarray) -> Image.Image:
        array = _channels_last(np.asarray(array))
        if array.dtype == bool:
            array = array.astype(np.uint8) * 255
        elif array.dtype == np.uint8:
            pass
        elif np.issubdtype(array.dtype, np.floating):
            return self._convert(self._scaled(array, 1.0))
        elif np.issubdtype(array.dtype, np.integer):
            return self._convert(self._scaled(array, 65535.0 if array.dtype == np.uint16 else 255.0))
        else:
            raise UnreadableImageError(f"an array of {array.dtype} is no picture")
        return self._convert(Image.fromarray(array))

    def _scaled_with_transparency(self, image: Image.Image) -> Image.Image:
        """Map a picture of more than 8 bits to 8; the one value that its PNG declares transparent stays so."""
        values, transparent = np.asarray(image), image.info.get("transparency")
        scaled = self._scaled(values, _FULL_RANGE[image.mode])
        if isinstance(transparent, int):
            scaled.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        return scaled

    def _scaled(self, values: np.ndarray, white: float) -> Image.Image:
        """Map values to 8 bits: round(255 (v - black) / (white - black))."""
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise UnreadableImageError("it has values that are not finite")
        lowest, highest = float(values.min()), float(values.max())
        black = 0.0
        if self.value_range == "min_max":
            black, white = lowest, highest
        elif self.value_range == "12bit":
            white = 4095.0
        elif self.value_range != "full":
            black, white = self.value_range
        tolerance = _ROUNDING * (white - black)
        if isinstance(self.value_range, str) and (lowest < black - tolerance or highest > white + tolerance):
            raise UnreadableImageError(
                f"its values are {lowest:g} to {highest:g}, but 0 is black and {white:g} is white by "
                f"dataset.value_range: {self.value_range}; set it to min_max, or to a pair [black, white]"
            )
        scaled = (values - black) / max(white - black, np.finfo(np.float64).tiny)
        image = Image.fromarray(np.rint(scaled.clip(0, 1) * 255).astype(np.uint8))
        image.info[USED_RANGE] = float(scaled.max())
        return image


def _bytes_of(path: Path) -> bytes:
    """Read a file; not a pipe, which would be waited for, nor a device, which has no end."""
    if not path.is_file() and path.exists() and not path.is_dir():
        raise UnreadableImageError("it is no file, but a pipe or a device")
    return path.read_bytes()


def _open(data: bytes) -> Image.Image:
    """Open a picture of any size; its pixels are not decoded."""
    with _PIXEL_LIMIT:  # Pillow's own limit is one for the whole process
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=_formats(_is_heif(data)))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _raw_modes(image: Image.Image) -> list[str]:
    """List how the pixels of an opened picture lie in its file, part by part, e.g. `RGB;16B`."""
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    return [str(value[0] if isinstance(value, tuple) and value else value) for value in arguments]


def _has_deep_colours(image: Image.Image) -> bool:
    """Tell whether an opened picture has more than 8 bits a value, of which Pillow decodes 8."""
    if image.mode in _FULL_RANGE:
        return False
    return (image.format == "PPM" and _ppm_white(image) > 255) or any(";16" in mode for mode in _raw_modes(image))


def _ppm_white(image: Image.Image) -> int:
    """Find the value of white of an opened Netpbm picture of colours; Pillow maps it to 255."""
    for tile in getattr(image, "tile", ()):
        if isinstance(tile[3], tuple) and isinstance(tile[3][-1], int):
            return int(tile[3][-1])
    return 255


def _swap_bytes(image: Any) -> bool:
    """Let an opened picture of 16-bit RGB or RGBA decode to its low bytes; tell whether it is of this kind."""
    swapped = []
    for tile, mode in zip(image.tile, _raw_modes(image), strict=True):
        colours, _, depth = mode.partition(";16")
        if image.mode not in ("RGB", "RGBA") or colours not in ("RGB", "RGBX", "RGBA") or depth not in _OTHER_BYTE:
            return False
        other = f"{colours};16{_OTHER_BYTE[depth]}"
        swapped.append(tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other))
    image.tile = swapped
    return bool(swapped)


def _loaded(image: Image.Image) -> Image.Image:
    """Decode a picture, and turn it upright."""
    image.load()
    return _upright(image)


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; damaged metadata turn nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the picture itself is sound
        return image


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert CMYK by its profile if it has one; Lab, which Pillow's `convert` does not know, by the standard's."""
    srgb = ImageCms.createProfile("sRGB")
    profile = image.info.get("icc_profile")
    try:
        if image.mode == "LAB":
            source: Any = ImageCms.createProfile("LAB")
        elif profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        else:
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        if image.mode == "LAB":
            raise
        return image.convert("RGB")
    assert converted is not None
    return converted


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Bring an array into (H, W) or (H, W, C)."""
    shape = array.shape
    if array.ndim == 3 and 0 not in shape:
        first, last = shape[0] in _CHANNELS, shape[-1] in _CHANNELS
        if first and last:
            raise UnreadableImageError(f"of an array {shape}, both the first and the last axis may be the channels")
        if first:
            array = np.moveaxis(array, 0, -1)
        if first or last:
            return np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array)
    if array.ndim == 2 and 0 not in shape:
        return np.ascontiguousarray(array)
    raise UnreadableImageError(f"an array {shape} is no picture: (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4")


def _is_heif(data: bytes) -> bool:
    """Check for HEIF's brands; AVIF lies in the same kind of file."""
    return data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"msf") and b"avif" not in data[:64]


@cache
def _formats(heif: bool) -> tuple[str, ...]:
    """List the formats that are decoded here, without another program's help."""
    if heif:
        try:
            import pillow_heif  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            raise UnreadableImageError(
                "HEIC pictures need the package pillow-heif: pip install 'dct-augment[heic]'"
            ) from error
        pillow_heif.register_heif_opener()
    Image.init()
    # Pillow warns of damaged metadata and of palettes. Not with catch_warnings: that is not safe in threads.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    return tuple(sorted(Image.OPEN.keys() - _NOT_DECODED))
