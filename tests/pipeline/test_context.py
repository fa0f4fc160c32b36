"""What a run knows of its own models and draws, before any work."""

from pathlib import Path

import pytest
from PIL import Image

from dct_augment import config
from dct_augment.pipeline.context import RunContext


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four training photos and two test photos of two classes."""
    shade = 0
    for split, count in (("train", 4), ("test", 2)):
        for label in ("gate", "petal"):
            for number in range(count):
                path = tmp_path / "photos" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (shade, 255 - shade, 10)).save(path)
                shade += 20
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("changes", "draws_alone"),
    [
        ((), True),
        (("benchmark.shots=3",), False),
        (("benchmark.protocol=cross_validation",), False),
        (("guide=[{name: few_shot, backbone: pocket/backbone}, {name: pocket/birds-guide}]",), False),
        (("guide=pocket/birds-guide",), False),
    ],
)
def test_tokens_know_the_photos_of_a_draw_alone_where_each_draw_has_all(
    photos: Path, tmp_path: Path, changes: tuple[str, ...], draws_alone: bool
) -> None:
    few = (
        f"dataset={{name: folder, path: {photos}, val: 0}}",
        "guide={name: few_shot, backbone: pocket/backbone}",
        "benchmark.shots=4",
    )
    context = RunContext(config.load("pocket", [*few, *changes], output=tmp_path / "run"))
    assert context.tokens_know_draws_alone == draws_alone
