"""Any picture becomes 8-bit RGB as a person sees it, or is refused with a reason."""

import io
import random
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dct_augment import reading
from dct_augment.errors import UnreadableImageError
from dct_augment.reading import USED_RANGE, ImageReader

READER = ImageReader()


def stored(image: Image.Image, image_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def pixel(data: bytes, reader: ImageReader = READER, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = reader.read(data)
    assert image.mode == "RGB"
    value = image.getpixel(at)
    assert isinstance(value, tuple)
    return value


def grey(*values: float, dtype: type = np.uint16) -> Image.Image:
    return Image.fromarray(np.array([values], dtype))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
@pytest.mark.parametrize(("value", "expected"), [(0, 0), (65535, 255), (32768, 128), (257, 1), (300, 1)])
def test_16_bit_grey_is_read_by_its_full_range(image_format: str, value: int, expected: int) -> None:
    assert pixel(stored(grey(value, 65535), image_format)) == (expected,) * 3


def test_16_bit_netpbm_is_read_by_its_full_range() -> None:
    assert pixel(b"P5 2 1 65535\n\x80\x00\xff\xff") == (128, 128, 128)


def test_16_bit_colour_keeps_the_high_byte() -> None:
    assert pixel(b"P6 1 1 65535\n\xff\xff\x80\x00\x00\x00") == (255, 128, 0)


@pytest.mark.parametrize(("value", "expected"), [(0.0, 0), (1.0, 255), (0.5, 128), (1.0005, 255)])
def test_a_float_picture_goes_from_0_to_1(value: float, expected: int) -> None:
    assert pixel(stored(grey(value, 0, dtype=np.float32), "TIFF")) == (expected,) * 3


@pytest.mark.parametrize("values", [(0.0, 200.0), (-0.5, 0.5), (0.0, float("nan")), (0.0, float("inf"))])
def test_a_float_picture_of_another_range_is_refused_and_not_guessed(values: tuple[float, float]) -> None:
    with pytest.raises(UnreadableImageError, match=r"value_range|not finite"):
        READER.read(stored(grey(*values, dtype=np.float32), "TIFF"))


def test_the_value_range_can_be_said() -> None:
    twelve = stored(grey(4095, 2048, 0), "PNG")
    assert pixel(twelve) == (16, 16, 16)
    assert pixel(twelve, ImageReader("12bit")) == (255, 255, 255)
    assert pixel(twelve, ImageReader("min_max"), at=(1, 0)) == (128, 128, 128)
    assert pixel(twelve, ImageReader((2048.0, 3000.0))) == (255, 255, 255)
    assert pixel(stored(grey(500, 500), "PNG"), ImageReader("min_max")) == (0, 0, 0)
    with pytest.raises(UnreadableImageError, match=r"its values are 0 to 5000.*4095 is white"):
        ImageReader("12bit").read(stored(grey(0, 5000), "PNG"))


def test_an_8_bit_picture_has_one_range_whatever_is_set() -> None:
    data = stored(Image.new("L", (2, 2), 100), "PNG")
    assert {pixel(data, ImageReader(value)) for value in ("full", "12bit", "min_max")} == {(100, 100, 100)}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_show_the_background(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (90, 90, 90, 255))
    data = stored(image.convert(mode), "PNG")
    assert pixel(data) == (255, 255, 255)
    assert pixel(data, at=(1, 0)) == (90, 90, 90)
    assert pixel(data, ImageReader(background="#102030")) == (16, 32, 48)


def test_half_transparent_is_mixed_with_the_background() -> None:
    assert pixel(stored(Image.new("RGBA", (1, 1), (0, 0, 0, 51)), "PNG")) == (204, 204, 204)


def test_a_transparent_colour_of_a_grey_or_colour_png_shows_the_background() -> None:
    assert pixel(stored(Image.new("L", (1, 1), 7), "PNG", transparency=7)) == (255, 255, 255)
    assert pixel(stored(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == (255, 255, 255)
    assert pixel(stored(Image.new("P", (1, 1), 3), "GIF", transparency=3)) == (255, 255, 255)


def test_a_transparent_value_of_a_16_bit_grey_png_shows_the_background() -> None:
    data = with_transparent_value(stored(grey(700, 65535), "PNG"), 700)
    assert pixel(data) == (255, 255, 255)
    assert pixel(data, ImageReader(background="#102030")) == (16, 32, 48)
    data = with_transparent_value(stored(grey(700, 65535), "PNG"), 65535)
    assert pixel(data, ImageReader(background="#102030")) == (3, 3, 3)


def with_transparent_value(png: bytes, value: int) -> bytes:
    """Add a chunk tRNS to a grey PNG, which Pillow does not write for 16 bits."""
    content = b"tRNS" + value.to_bytes(2, "big")
    chunk = (2).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    place = png.index(b"IDAT") - 4
    return png[:place] + chunk + png[place:]


@pytest.mark.parametrize(("mode", "color", "expected"), [
    ("1", 1, (255, 255, 255)),
    ("P", 0, (255, 0, 0)),
    ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    ("YCbCr", (76, 85, 255), (255, 0, 0)),
    ("LAB", (255, 128, 128), (255, 255, 255)),
])  # fmt: skip
def test_every_mode_becomes_rgb(mode: str, color: Any, expected: tuple[int, int, int]) -> None:
    image = Image.new(mode, (8, 8), color)
    if mode == "P":
        image.putpalette([255, 0, 0])
    data = stored(image, "PNG" if mode in ("1", "P") else "TIFF")
    assert np.abs(np.subtract(pixel(data), expected)).max() <= 4


def test_a_picture_is_upright_whatever_way_the_camera_was_held() -> None:
    image = Image.new("RGB", (4, 2), "red")
    image.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    upright = READER.read(stored(image, "PNG", exif=exif))
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (0, 0, 255)


def test_damaged_metadata_cost_no_picture() -> None:
    data = stored(Image.new("RGB", (4, 2), "red"), "JPEG", exif=b"Exif\x00\x00II*\x00" + b"\xff" * 40)
    assert READER.read(data).size == (4, 2)


@pytest.mark.parametrize(("limit", "fits"), [(100 * 100, True), (100 * 100 - 1, False)])
def test_a_picture_of_too_many_pixels_is_not_decoded(limit: int, fits: bool) -> None:
    data = stored(Image.new("L", (100, 100)), "PNG")
    if fits:
        assert ImageReader(max_pixels=limit).read(data).size == (100, 100)
        return
    with pytest.raises(UnreadableImageError, match=r"100 x 100 pixels are more than dataset.max_pixels, which is 9999"):
        ImageReader(max_pixels=limit).read(data)


def test_a_decompression_bomb_is_refused_and_the_limit_may_be_raised() -> None:
    bomb = stored(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(UnreadableImageError, match="20000 x 20000 pixels"):
        READER.read(bomb)
    assert Image.MAX_IMAGE_PIXELS  # of the user's own program
    assert ImageReader(max_pixels=10**9).read(stored(Image.new("1", (20_000, 9_500)), "PNG")).size == (20_000, 9_500)


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "the file is empty"),
    (b"hello", "no picture of a known format"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no picture of a known format"),
])  # fmt: skip
def test_what_is_no_picture_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        READER.read(data)


def test_pictures_of_a_telephone_are_read_with_the_package_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 30))).save(stream)
    image = READER.read(stream.getvalue())
    assert image.size == (64, 48)
    assert np.abs(np.asarray(image)[9, 9] - np.array([200, 30, 30])).max() < 12
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    reading._formats.cache_clear()
    with pytest.raises(UnreadableImageError, match=r"pip install 'dct-augment\[heic\]'"):
        READER.read(stream.getvalue())


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="No such file"):
        READER.read(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match="its path is none: embedded null byte"):
        READER.read(tmp_path / "a\0.png")


@pytest.mark.parametrize(("array", "expected"), [
    (np.full((2, 5), 7, np.uint8), (7, 7, 7)),
    (np.full((2, 5), 7, np.int64), (7, 7, 7)),
    (np.full((2, 5), 65535, np.uint16), (255, 255, 255)),
    (np.ones((2, 5), bool), (255, 255, 255)),
    (np.full((2, 5, 1), 0.5, np.float32), (128, 128, 128)),
    (np.full((3, 2, 5), 0.5, np.float64), (128, 128, 128)),
    (np.broadcast_to([[[1, 2, 3]]], (2, 5, 3)).astype(np.uint8), (1, 2, 3)),
    (np.broadcast_to([[[0.0]], [[1.0]], [[0.5]]], (3, 2, 5)), (0, 255, 128)),
    (np.broadcast_to([[[9]], [[8]], [[7]], [[0]]], (4, 2, 5)).astype(np.uint8), (255, 255, 255)),
])  # fmt: skip
def test_an_array_is_a_picture(array: np.ndarray, expected: tuple[int, int, int]) -> None:
    image = READER.convert_array(array)
    assert (image.mode, image.size) == ("RGB", (5, 2))
    assert image.getpixel((4, 1)) == expected


@pytest.mark.parametrize(("array", "reason"), [
    (np.zeros((3, 9, 3)), "both the first and the last axis"),
    (np.zeros((2, 5, 6)), "is no picture"),
    (np.zeros((0, 5)), "is no picture"),
    (np.zeros(5), "is no picture"),
    (np.full((2, 5), 300), "255 is white"),
    (np.full((2, 5), 200.0), "1 is white"),
    (np.array([["a"]]), "is no picture"),
])  # fmt: skip
def test_an_array_that_may_mean_several_things_is_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        READER.convert_array(array)


def seeds() -> list[bytes]:
    """A small file of each format that Pillow writes."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (12, 9, 3), np.uint8))
    formats = (
        "PNG",
        "JPEG",
        "GIF",
        "BMP",
        "TIFF",
        "WEBP",
        "PPM",
        "TGA",
        "ICO",
        "PCX",
        "SGI",
        "JPEG2000",
        "AVIF",
        "QOI",
    )
    files = [stored(image, image_format) for image_format in formats]
    files += [stored(image, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "packbits")]
    files.append(stored(grey(1, 2, 3), "PNG"))
    files.append(stored(image.convert("RGBA"), "PNG"))
    return files


def mutated(data: bytes, random_numbers: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random_numbers.randint(1, 8)):
        place = random_numbers.randrange(len(changed))
        kind = random_numbers.randrange(4)
        if kind == 0:
            changed[place] = random_numbers.randrange(256)
        elif kind == 1:
            changed[place : place + random_numbers.randint(1, 9)] = b""
        elif kind == 2:
            changed[place:place] = random_numbers.randbytes(random_numbers.randint(1, 9))
        else:
            del changed[max(place, 1) :]
        if not changed:
            break
    return bytes(changed)


def test_ten_thousand_damaged_files_are_each_read_or_refused_with_a_reason() -> None:
    files, random_numbers = seeds(), random.Random(0)
    reader = ImageReader(max_pixels=1_000_000)
    reasons, read = list[str](), 0
    for number in range(10_000):
        data = mutated(files[number % len(files)], random_numbers)
        try:
            image = reader.read(data)
        except UnreadableImageError as error:
            reasons.append(str(error))
        else:
            assert image.mode == "RGB"
            read += 1
    assert read > 500
    assert len(reasons) > 500
    assert all(reasons)
    assert not any("\n" in reason for reason in reasons)


def deep_png(values: np.ndarray, colour_type: int = 2, transparent: bytes = b"") -> bytes:
    """Write a PNG of 16 bits a value, which Pillow cannot; colour types are RGB 2, grey with alpha 4, RGBA 6."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        chunk(b"tRNS", transparent) if transparent else b"",
        chunk(b"IDAT", zlib.compress(rows)),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def deep_tiff(values: np.ndarray, order: str, *, compressed: bool) -> bytes:
    """Write a TIFF of RGB with 16 bits a value; `order` is `<` or `>`."""
    height, width, count = values.shape
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if compressed else data
    data += b"\0" * (len(data) % 2)
    depths = 8 + len(data)
    entries = [
        (256, width),
        (257, height),
        (258, depths),
        (259, 8 if compressed else 1),
        (262, 2),
        (273, 8),
        (277, count),
    ]
    entries += [(278, height), (279, len(data)), (284, 1)]
    table = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries if tag != 258)
    of_depths = struct.pack(f"{order}HHII", 258, 3, count, depths)
    table = table[:24] + of_depths + table[24:]
    directory = struct.pack(f"{order}H", len(entries)) + table + bytes(4)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", depths + 2 * count)
    return start + data + struct.pack(f"{order}{count}H", *[16] * count) + directory


DEEP = np.random.default_rng(0).integers(0, 4096, (5, 7, 3)).astype(np.uint16)
DEEP[0, 0] = 0, 4095, 2048
DEEP_FILES = {
    "png": deep_png(DEEP),
    **{
        f"tiff {order} {compressed}": deep_tiff(DEEP, order, compressed=compressed)
        for order in "<>"
        for compressed in (False, True)
    },
}


@pytest.mark.parametrize("kind", DEEP_FILES)
def test_16_bit_colours_are_mapped_by_the_value_range_with_all_their_bits(kind: str) -> None:
    data = DEEP_FILES[kind]
    expected = np.rint(DEEP / 4095 * 255).astype(np.uint8)
    for value_range in ("12bit", "min_max", (0.0, 4095.0)):
        image = ImageReader(value_range=value_range).read(data)
        assert np.array_equal(np.asarray(image), expected), value_range
        assert image.info[USED_RANGE] == 1
    as_before = READER.read(data)
    assert np.array_equal(np.asarray(as_before), DEEP >> 8)
    assert as_before.info[USED_RANGE] == 15 / 255


def test_transparent_16_bit_colours_keep_their_background() -> None:
    alpha = np.full((5, 7, 1), 65535, np.uint16)
    alpha[0, 0] = 0
    reader = ImageReader(value_range="12bit", background="blue")
    expected = np.rint(DEEP / 4095 * 255).astype(np.uint8)
    expected[0, 0] = 0, 0, 255
    with_alpha = deep_png(np.concatenate([DEEP, alpha], 2), 6)
    with_transparent_value = deep_png(DEEP, 2, struct.pack(">HHH", *DEEP[0, 0]))
    for data in (with_alpha, with_transparent_value):
        assert np.array_equal(np.asarray(reader.read(data)), expected)


@pytest.mark.parametrize(
    "data", [deep_png(DEEP[..., :2], 4), b"P6 1 1 4095\n\x0f\xff\x00\x00\x00\x00"], ids=["grey with alpha", "Netpbm"]
)
def test_other_deep_colours_are_refused_for_a_value_range_and_not_nearly_black(data: bytes) -> None:
    with pytest.raises(
        UnreadableImageError, match=r"more than 8 bits, and dataset\.value_range: 12bit cannot be applied"
    ):
        ImageReader(value_range="12bit").read(data)
    READER.read(data)


def test_a_large_picture_of_16_bit_colours_is_not_decoded() -> None:
    with pytest.raises(UnreadableImageError, match=r"7 x 5 pixels are more than dataset\.max_pixels"):
        ImageReader(value_range="12bit", max_pixels=34).read(DEEP_FILES["png"])
