"""Real photographs for tests: parts of the two that scikit-learn ships, no two alike."""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image


@cache
def photograph(number: int) -> Image.Image:
    """Cut one of 24 parts, 160 x 140 pixels, out of scikit-learn's two photographs."""
    name = ("china.jpg", "flower.jpg")[number % 2]
    path = Path(str(files("sklearn.datasets") / "images" / name))
    column, row = divmod(number // 2, 3)
    left, top = 160 * column, 140 * row
    return Image.open(path).convert("RGB").crop((left, top, left + 160, top + 140))


def save(path: Path, number: int, size: tuple[int, int] | None = None, **options: Any) -> Path:
    """Save a photograph in the format of the path's ending, smaller or larger if a size is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = photograph(number)
    (image.resize(size, Image.Resampling.LANCZOS) if size else image).save(path, **options)
    return path


def photograph_tree(root: Path) -> Path:
    """Save 24 photographs in two classes and three splits: train has 6 of each class, val and test 3."""
    for number in range(24):
        split = ("train", "train", "val", "test")[number // 2 % 4]
        save(root / split / ("china", "flower")[number % 2] / f"{number:02d}.png", number)
    return root
