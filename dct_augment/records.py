"""The values that travel between stages. Frozen, plain, and free of torch."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from PIL import Image


@dataclass(frozen=True)
class ClassInfo:
    """One class of a data set.

    `name` is what prompts say, and may be another class's too; `slug` is unique and safe for any file system;
    `original_name` is what the data set itself calls it: folder, WordNet id, category. `default_name` is what prompts
    would say without words of the user's own.
    """

    index: int
    name: str
    slug: str
    homonym: bool = False
    original_name: str = ""
    default_name: str = ""

    @property
    def spellings(self) -> tuple[str, ...]:
        """What a user may call the class, in lower case, the most exact one first; others may have the last, too."""
        spellings = (self.original_name.strip().lower(), self.slug, self.name.strip().lower())
        return tuple(unicodedata.normalize("NFC", spelling) for spelling in spellings if spelling)


@dataclass(frozen=True)
class Example:
    """One labelled real image.

    `open` gives it as 8-bit RGB, upright, or raises UnreadableImageError with the reason.
    """

    key: str
    label: int
    open: Callable[[], Image.Image] = field(repr=False, compare=False)


class Dataset(Protocol):
    """What every data set adapter offers."""

    @property
    def name(self) -> str:
        """Short name, also part of the token names."""
        ...

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes, in label order."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the images were read: files left out, labels that are hidden."""
        ...

    def examples(self, split: str) -> Sequence[Example]:
        """The labelled images of `train`, `val` or `test`."""
        ...


@dataclass(frozen=True)
class Split:
    """A few-shot split: `train` has at most `shots` images per class, `val` and `test` are untouched.

    `fewer` gives the number of images of each class, by name, that has fewer than it should.
    """

    shots: int
    seed: int
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: tuple[Example, ...]
    fewer: Mapping[str, int] = field(default_factory=dict)


class StopReason(StrEnum):
    """Why the training of a class token ended, or did not begin."""

    TARGET = "target reached"
    PATIENCE = "no more progress"
    UPDATES = "all updates done"
    NON_FINITE = "loss not finite"
    PLAIN_IS_ENOUGH = "plain prompt is enough"
    REFUSED = "the few-shot guide is no better than chance for this class"


class Verdict(StrEnum):
    """What fresh images say of a class token, against the plain prompt."""

    CERTIFIED = "certified"
    NO_GAIN = "no_gain"
    WORSE = "worse"
    COLLAPSED = "collapsed"


class ImageKind(StrEnum):
    """How an image is prompted: with the class token of its class, or with its plain prompt, to compare with."""

    CLASS_TOKEN = "class_token"
    PLAIN_PROMPT = "plain_prompt"


@dataclass(frozen=True)
class ClassToken:
    """A trained class token on disk: its word in prompts, and the checksum of its file."""

    word: str
    slug: str
    sha256: str


@dataclass(frozen=True)
class PlanRow:
    """One image to generate: a pure function of the configuration, whatever else is generated.

    `key` is unique in a run. `token_sha256` is that of the class token's file; empty if the prompt is the plain one.
    `start_key` is that of the training photo that the image starts from, and `strength` the share of the steps that it
    goes through from there: empty and 1 if it starts from noise alone. `token_noise` is the length of the noise on the
    class token, as a share of the token's own.
    """

    key: str
    class_index: int
    class_name: str
    slug: str
    number: int
    prompt: str
    seed: int
    token_sha256: str = ""
    start_key: str = ""
    strength: float = 1.0
    token_noise: float = 0.0

    @property
    def kind(self) -> ImageKind:
        """How the image is prompted; a class without a certified token has plain prompts in both shard folders."""
        return ImageKind.CLASS_TOKEN if self.token_sha256 else ImageKind.PLAIN_PROMPT


@dataclass(frozen=True)
class ImageFile:
    """A picture as a file: its bytes, and the hash of its pixels."""

    data: bytes
    content: str


@dataclass(frozen=True)
class GeneratedImage:
    """One generated image with its plan row and what guide and judge say of it.

    `image` is None if it failed; `file` is None as long as it is not encoded.
    """

    row: PlanRow
    image: Image.Image | None
    status: str = "ok"
    error: str = ""
    guide_label: str = ""
    guide_right: bool | None = None
    guide_confidence: float = float("nan")
    judge_label: str = ""
    judge_right: bool | None = None
    judge_confidence: float = float("nan")
    file: ImageFile | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Trial:
    """One trained and tested classifier: an arm on one few-shot draw.

    It is trained with at most `per_class` synthetic images of each class, and with `synthetic_images` in all: fewer
    where some failed or were filtered. `synthetic_probability` is the share of training images that one of these
    replaced; 0 without any. `other_model` is one of `downstream.other_models`; empty for `downstream.model`.

    `truth` and `predicted` are class indices of the test images, in their order; `val_accuracy` is that of the state
    that was tested, NaN without a validation split. `logits` (N, K) of these images are kept in cross-validation alone,
    where they calibrate the classifier that the user keeps.
    """

    arm: str
    shots: int
    seed: int
    per_class: int
    steps: int
    accuracy: float
    val_accuracy: float
    truth: tuple[int, ...] = field(repr=False)
    predicted: tuple[int, ...] = field(repr=False)
    logits: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    other_model: str = ""
    synthetic_images: int = 0
    synthetic_probability: float = 0.0


class StageName(StrEnum):
    """The stages of a run, in order: as work units, progress, `times.json` and `--dry-run` name them."""

    TOKENS = "tokens"
    CLASS_TOKEN_IMAGES = "class-token images"
    PLAIN_PROMPT_IMAGES = "plain-prompt images"
    ARMS = "arms"
    BENCHMARK = "benchmark"
    METRICS = "metrics"
    CLASSIFIER = "classifier"
    REPORT = "report"


@dataclass(frozen=True)
class WorkUnit:
    """One piece of the work of a stage: what is resumed, retried and distributed.

    `number` is that of the group, shard or trial; `title` is for a person; `size` is what its progress counts to;
    `classes` are the slugs it is about, if not all.
    """

    stage: StageName
    number: int
    title: str
    size: int
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far a stage is; `note` is one short line for a person. With a total of 0 it is a remark alone.

    `stage` is a `StageName`, or what a remark is about: a model, guide, judge, the data.
    """

    stage: str
    done: int
    total: int
    note: str = ""


ProgressCallback = Callable[[Progress], None]
"""Receives progress; stages never print or log."""


def ignore_progress(progress: Progress) -> None:
    """Ignore progress."""
