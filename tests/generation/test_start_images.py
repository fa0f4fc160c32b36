"""Images that start from photos: which photo and strength a row names, and what the generator makes of it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dct_augment.config import PromptsConfig
from dct_augment.diffusion import Sampler
from dct_augment.errors import UnreadableImageError
from dct_augment.generation import plan
from dct_augment.generation.generator import Generator
from dct_augment.generation.start_choice import StartChoice
from dct_augment.generation.start_images import StartImages
from dct_augment.images import square
from dct_augment.records import Example, GeneratedImage, ImageKind, PlanRow
from tests import tiny

KEYS = {"crane": ["a", "b", "c"], "kiwi": ["d"], "red-bird": ["e", "f"]}
SLUG_OF = {key: slug for slug, keys in KEYS.items() for key in keys}
STRENGTHS = (0.2, 0.8)


def choice(*, any_class: bool = False) -> StartChoice:
    return StartChoice(KEYS, any_class, STRENGTHS)


def rows(starts: StartChoice | None, per_class: int = 6, seed: int = 0) -> tuple[PlanRow, ...]:
    (shard,) = plan.extend((), tiny.CLASSES, per_class, 1000)
    return plan.rows(shard, ImageKind.PLAIN_PROMPT, tiny.CLASSES, PromptsConfig(), {}, seed, starts)


def test_an_image_starts_from_a_photo_of_its_class_and_each_as_often() -> None:
    planned = rows(choice())
    assert {SLUG_OF[row.start_key] == row.slug for row in planned} == {True}
    assert Counter(row.start_key for row in planned) == {"a": 2, "b": 2, "c": 2, "d": 6, "e": 3, "f": 3}
    assert [row.strength for row in planned if row.slug == "kiwi"] == [0.2, 0.8] * 3


def test_the_start_image_is_of_seed_class_and_number_alone() -> None:
    few, many = rows(choice(), 4), rows(choice(), 9)
    assert many[: len(few)] == few
    assert rows(choice()) == rows(choice())
    assert [row.start_key for row in rows(choice(), seed=1)] != [row.start_key for row in rows(choice())]


def test_any_class_takes_each_class_as_often_whatever_its_photos() -> None:
    planned = rows(choice(any_class=True), 200)
    for info in tiny.CLASSES:
        found = Counter(SLUG_OF[row.start_key] for row in planned if row.slug == info.slug)
        assert len(found) == 3
        assert min(found.values()) > 40
    with_none = StartChoice({**KEYS, "kiwi": []}, True, STRENGTHS)
    assert {SLUG_OF[row.start_key] for row in rows(with_none, 50)} == {"crane", "red-bird"}


def test_an_image_from_noise_names_no_photo() -> None:
    assert {(row.start_key, row.strength) for row in rows(None)} == {("", 1.0)}
    plain = [replace(row, start_key="", strength=1.0) for row in rows(choice())]
    assert plain == list(rows(None))


def picture(key: str) -> Image.Image:
    """A photo, wider than it is high."""
    pixels = np.random.default_rng(ord(key)).integers(0, 256, (24, 40, 3), np.uint8)
    return Image.fromarray(pixels)


def broken() -> Image.Image:
    raise UnreadableImageError("it is cut")


def photos(unreadable: str = "") -> list[Example]:
    found = []
    for place, (key, _) in enumerate(SLUG_OF.items()):
        found.append(Example(key, place, broken if key == unreadable else lambda key=key: picture(key)))  # type: ignore[misc]
    return found


def generate(planned: tuple[PlanRow, ...], batch_size: int = 4, unreadable: str = "") -> list[GeneratedImage]:
    sampler = Sampler(tiny.backend(), steps=5, guidance_scale=3.0)
    generator = Generator(sampler, classes=tiny.CLASSES, starts=StartImages(tiny.backend(), photos(unreadable)))
    return list(generator.generate(planned, {}, batch_size))


def array(image: GeneratedImage) -> np.ndarray:
    assert image.image is not None
    return np.asarray(image.image).astype(int)


@pytest.fixture(scope="module")
def generated() -> list[GeneratedImage]:
    return generate(rows(choice(), 3))


def test_an_image_of_a_low_strength_is_nearer_to_its_photo(generated: list[GeneratedImage]) -> None:
    backend, distances = tiny.backend(), {0.2: 0.0, 0.8: 0.0}
    for image in generated:
        mean, _ = backend.encode_images(square(picture(image.row.start_key), backend.image_size))
        photo = backend.decode(mean).clamp(-1, 1)[0].permute(1, 2, 0).numpy()
        distances[image.row.strength] += float(np.square((photo + 1) * 127.5 - array(image)).mean())
    assert 0 < distances[0.2] < distances[0.8]


def test_twice_is_the_same_to_the_byte_and_other_batches_within_a_grey_level(generated: list[GeneratedImage]) -> None:
    planned = rows(choice(), 3)
    assert [image.row for image in generated] == list(planned)
    assert [array(image).tobytes() for image in generate(planned)] == [array(image).tobytes() for image in generated]
    for size in (1, 100):
        for image, other in zip(generated, generate(planned, size), strict=True):
            assert np.abs(array(image) - array(other)).max() <= 1


def test_rows_from_noise_and_from_photos_share_a_batch(generated: list[GeneratedImage]) -> None:
    planned = rows(choice(), 3)
    mixed = tuple(row if row.number % 2 else replace(row, start_key="", strength=1.0) for row in planned)
    alone = generate(rows(None, 3))
    for image, from_photo, from_noise in zip(generate(mixed), generated, alone, strict=True):
        expected = from_photo if image.row.start_key else from_noise
        assert np.abs(array(image) - array(expected)).max() <= 1


def test_a_photo_that_cannot_be_read_makes_failed_rows_and_no_others(generated: list[GeneratedImage]) -> None:
    for image, sound in zip(generate(rows(choice(), 3), unreadable="b"), generated, strict=True):
        if image.row.start_key == "b":
            assert (image.image, image.status) == (None, "failed")
            assert image.error == "start image 'b' cannot be read: it is cut"
        else:
            assert np.abs(array(image) - array(sound)).max() <= 1


def test_a_photo_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, encoded = tiny.backend(), []
    original = backend.encode_images

    def recorded(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(len(images))
        return original(images)

    monkeypatch.setattr(backend, "encode_images", recorded)
    starts = StartImages(backend, photos())
    first, again = starts.latents(["a", "b", "a"]), starts.latents(["b", "c"])
    assert encoded == [2, 1]
    assert torch.equal(first["b"], again["b"])
    mean, _ = original(square(picture("c"), backend.image_size))
    torch.testing.assert_close(again["c"], mean[0])
