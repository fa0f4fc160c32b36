"""What every part of the configuration is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from dct_augment.remote import urls

ImageSize = Annotated[int, Field(ge=1, le=8192)]
PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=1e-12, le=1e30)]
"""A learning rate; beyond these nothing is learned, or torch's float32 overflows."""
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _expanded(path: Path) -> Path:
    """Put the home folder in place of `~`, as a shell does."""
    if urls.is_scheme_alone(path):
        scheme = str(path).partition(":")[0]
        raise ValueError(f"{scheme}:// names no place there; give {scheme}://BUCKET/FOLDER, or a path of this machine")
    if urls.has_scheme(path):
        raise ValueError("no URL has a place here; give a path of this machine")
    if "\0" in str(path):
        raise ValueError("no path holds a null byte; write it anew")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no user {path.parts[0]!r}; write the folder out") from error


def _as_written(path: Path) -> Path:
    """Check that a path can be expanded where it is used; it stays as it is, for it decides results by its text."""
    _expanded(path)
    return path


def _of_store(path: Path) -> Path:
    """Check that a path that may be a URL is one of a store that is known."""
    if urls.url_of(path) is not None:
        return path
    if urls.has_scheme(path):
        scheme = str(path).partition(":")[0]
        known = ", ".join(f"{name}://" for name in urls.SCHEMES)
        raise ValueError(f"{scheme}:// is no store that is known; give {known} or a path of this machine")
    return _as_written(path)


def _of_output(path: Path) -> Path:
    """Check that a run can be kept at a path or URL."""
    if (urls.url_of(path) or "").startswith("hf://"):
        raise ValueError("hf:// has no conditional writes, by which machines take turns; give s3://, gs:// or a folder")
    return _of_store(path) if urls.has_scheme(path) else _expanded(path)


def _not_empty(value: Any) -> Any:
    """Refuse an empty text: as a path it is the current folder."""
    if value == "":
        raise ValueError("an empty text is no path; give one, or delete the line")
    return value


_NOT_EMPTY = BeforeValidator(_not_empty)

UserPath = Annotated[Path, _NOT_EMPTY, AfterValidator(_expanded)]
"""A path that a user gives; `~` is the home folder."""

WrittenPath = Annotated[Path, _NOT_EMPTY, AfterValidator(_as_written)]
"""A path that a user gives and that is part of an identity as it is written; who uses it expands `~`."""

_WRITTEN = PlainSerializer(urls.written, return_type=str, when_used="json-unless-none")

DataPath = Annotated[Path, _NOT_EMPTY, AfterValidator(_of_store), _WRITTEN]
"""A path as it is written, or the URL of a store: `remote.urls.url_of` gives it back its second slash."""

OutputPath = Annotated[Path, _NOT_EMPTY, AfterValidator(_of_output), _WRITTEN]
"""The folder of a run: a path, or a URL like that of `DataPath`."""


def _check_shots(value: Any) -> Any:
    """Refuse what is neither a number nor `all` with one message, not with one for each of the two."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 1 and value % 1 == 0
    if not is_number and value != "all":
        raise ValueError("must be a whole number from 1, or 'all'")
    return value


Shots = Annotated[PositiveInt | Literal["all"], BeforeValidator(_check_shots)]
"""Real images per class, at most; a class with fewer gives what it has."""


def _spelled(value: Any) -> Any:
    """Spell true and false out, also in a list."""
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else value


def _allows(annotation: Any, *kinds: Any) -> bool:
    """Whether one of these kinds is among what a type allows."""
    return annotation in kinds or any(_allows(part, *kinds) for part in get_args(annotation))


CONFUSED_CLASS = "token-of-the-most-confused-class"
"""The negative prompt that is the token of the class for which the guide most takes the images of a class."""


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _spell_true_where_a_number_belongs(cls, values: Any) -> Any:
        """Spell true out where it would be taken for 1, and so would `yes` and `on` of YAML; then it is no number."""
        if not isinstance(values, Mapping):
            return values
        numbers = {
            name
            for name, field in cls.model_fields.items()
            if _allows(field.annotation, int, float) and not _allows(field.annotation, bool, str, Any)
        }
        return {name: _spelled(value) if name in numbers else value for name, value in values.items()}


class FewShotSection(Section):
    """A section that says how many real images of a class there are."""

    shots: Shots = Field(
        5,
        description="real training images per class, at most; or `all`: the number of the class that has most, counted "
        "before unreadable images and copies are left out, so no class may have so many",
    )

    @property
    def shot_count(self) -> int:
        """The shots as a number. A run replaces `all` by one as soon as it knows the data set.

        Raises:
            ValueError: it has not been replaced.
        """
        if self.shots == "all":
            raise ValueError("shots: all is no number before the data set is known")
        return self.shots
