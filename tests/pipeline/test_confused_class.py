"""`prompts.negative: token-of-the-most-confused-class`: images are led away from the token of another class."""

from pathlib import Path
from typing import Any

import pytest

from dct_augment import SyntheticImages, config
from dct_augment.config.base import CONFUSED_CLASS
from dct_augment.errors import ConfigError, ModelError
from dct_augment.generation import shard_rows
from dct_augment.pipeline.model_check import check_sampling
from dct_augment.pipeline.run import Run
from dct_augment.tokens import formats
from tests import tiny
from tests.small import SMALL

pytestmark = pytest.mark.slow

CLASSES = ["one", "four", "seven"]
AWAY = f"prompts.negative={CONFUSED_CLASS}"


def load(root: Path, *settings: str) -> Run:
    given = [*SMALL, "generation.per_class=2", "generation.allow_uncertified=true", *settings]
    return Run(config.load("digits", given, classes=CLASSES, output=root))


def recorded(run: Run) -> dict[str, Any]:
    """What decided the pixels of the only shard."""
    (parquet,) = (run.config.root / "shards").glob("*.parquet")
    identity: dict[str, Any] = shard_rows.read_metadata(parquet)["identity"]
    return identity


def pictures(run: Run) -> list[bytes]:
    images = SyntheticImages(run.config.root / "shards")
    return [images[place][0].tobytes() for place in range(len(images))]


def test_images_are_led_away_from_the_class_that_they_are_taken_for(tmp_path: Path) -> None:
    usual, away = load(tmp_path / "usual"), load(tmp_path / "away", AWAY)
    usual.generate()
    away.train()
    named: dict[str, list[str]] = {}
    for info in away.classes:
        (mine,), (other,) = (formats.read(run.tokens.file(info)) for run in (away, usual))
        assert mine.vector.equal(other.vector)  # the negative prompt is that of generation alone
        named[info.slug] = mine.metadata["confused_with"]
        assert info.slug not in named[info.slug]
        assert len(set(named[info.slug])) == 9  # all other digits
    away.generate()
    before, led = pictures(usual), pictures(away)
    assert len(before) == len(led) == 6
    assert not set(before) & set(led)

    # The token of a class's rival decides its images, too.
    identity = recorded(away)
    with_token = [next(slug for slug in named[info.slug] if slug in CLASSES) for info in away.classes]
    digests = {info.slug: away.tokens.token(info).sha256 for info in away.classes}
    rivals = dict(zip((info.slug for info in away.classes), with_token, strict=True))
    assert identity["negative_tokens"] == {slug: digests[rival] for slug, rival in rivals.items()}
    assert "negative_tokens" not in recorded(usual)


def test_tokens_are_the_same_with_it_and_without() -> None:
    usual, away = (config.load("digits", settings) for settings in ([], [AWAY]))
    assert usual.identity("tokens") == away.identity("tokens")
    assert usual.identity("generation") != away.identity("generation")


def test_it_is_for_all_classes() -> None:
    with pytest.raises(ConfigError, match=f"is for all classes: negative: {CONFUSED_CLASS}"):
        config.load("digits", [f"prompts.negative={{one: {CONFUSED_CLASS}}}"])


def test_a_model_without_a_branch_for_it_is_refused() -> None:
    with pytest.raises(ModelError, match=f"prompts.negative '{CONFUSED_CLASS}' does not suit this model"):
        check_sampling(config.load("digits", [f"model.path={tiny.pipeline_folder('flux')}", AWAY]))
