"""Real handwriting: scikit-learn's bundled digits (1,797 writings, 8x8), redrawn as ink on paper."""

from functools import cache

import numpy as np
from PIL import Image

SIZE = 64

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

ADJECTIVES: tuple[tuple[str, ...], ...] = (
    ("round", "hollow"),
    ("upright", "straight"),
    ("swan necked", "flat bottomed"),
    ("open", "double curved"),
    ("crossed", "angular"),
    ("hooked", "big bellied"),
    ("low looped", "tail up"),
    ("slanted", "flat topped"),
    ("pinched", "double looped"),
    ("high looped", "tail down"),
)
"""What each digit looks like, in words that name no digit."""

LOOK_ALIKES: tuple[tuple[str, str], ...] = (
    ("zero", "six"),
    ("one", "seven"),
    ("two", "five"),
    ("three", "eight"),
    ("four", "nine"),
)
"""Digits whose names the captions mix up."""

INKS = {"black": (34, 34, 42), "blue": (32, 62, 168), "red": (188, 36, 44), "green": (22, 116, 62)}
PAPERS = {"white": (250, 250, 248), "cream": (248, 238, 208), "grey": (214, 216, 222), "sky": (206, 228, 246)}


@cache
def writings() -> tuple[np.ndarray, np.ndarray]:
    """All writings, (1797, 8, 8) in [0, 1], and their digits, (1797,) in 0..9."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.float32) / 16.0, bunch.target.astype(np.int64)


@cache
def splits(seed: int = 2303) -> dict[str, np.ndarray]:
    """Disjoint indices into `writings()`: `train` and `val` balanced, the rest by permutation.

    `world` trains the text-to-image model and the guide, `judge` the judge; `train`, `val` and
    `test` belong to the low-resource benchmark.
    """
    digits = writings()[1]
    order = np.random.default_rng(seed).permutation(len(digits))
    taken: dict[str, list[int]] = {"train": [], "val": []}
    for digit in range(len(NAMES)):
        members = order[digits[order] == digit]
        taken["train"].extend(members[:20])
        taken["val"].extend(members[20:26])
    used = np.array(taken["train"] + taken["val"])
    rest = order[~np.isin(order, used)]
    return {
        "train": np.array(taken["train"]),
        "val": np.array(taken["val"]),
        "test": rest[:297],
        "judge": rest[297:777],
        "world": rest[777:],
    }


def draw(index: int, rng: np.random.Generator, size: int = SIZE) -> tuple[Image.Image, str]:
    """Redraw writing `index`, `size` x `size` RGB, and name its ink. Ink, paper and pose come from `rng`."""
    ink, paper = str(rng.choice(list(INKS))), str(rng.choice(list(PAPERS)))
    side = round(size * float(rng.uniform(0.82, 1.0)))
    glyph = Image.fromarray(writings()[0][index], mode="F").resize((side, side), Image.Resampling.BICUBIC)
    page = Image.new("F", (size, size), 0.0)
    slack = size - side
    jitter = rng.integers(-3, 4, 2)
    page.paste(glyph, (slack // 2 + int(jitter[0]), slack // 2 + int(jitter[1])))
    page = page.rotate(float(rng.normal(0, 4)), Image.Resampling.BICUBIC)
    edge = np.clip((np.asarray(page) - 0.22) / 0.4, 0.0, 1.0)
    stroke = (edge * edge * (3 - 2 * edge))[..., None]
    pixels = (1 - stroke) * np.array(PAPERS[paper]) + stroke * np.array(INKS[ink])
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8)), ink


def picture(index: int, copy: int) -> Image.Image:
    """Redraw number `copy` of writing `index`; always the same one."""
    return draw(index, np.random.default_rng([index, copy]))[0]
