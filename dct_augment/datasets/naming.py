"""Turns what a data set calls its classes into what prompts say."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dct_augment.config import by_class
from dct_augment.errors import DatasetError, InputError
from dct_augment.prompts import slugs, words
from dct_augment.records import ClassInfo

_EMPTY_NAME = re.compile(r"((class|label|category|id)[\W_]*)?\d+([\W_]*\d+)*|n\d{8}")


def class_infos(
    original_names: Sequence[str], user_words: Path | Mapping[str, str] | None, names: Sequence[str] | None = None
) -> tuple[ClassInfo, ...]:
    """Number and name the classes of a data set, in order.

    `names` are what prompts say (made from the original names if not given); `user_words`, a file or a mapping,
    overrides some of them, by original name, name or slug. Names may repeat: such classes are marked as homonyms, and
    their slugs differ.

    Raises:
        DatasetError: the file cannot be read, a class is named that does not exist, or a name is no text.
    """
    for name in original_names:
        if not name.isascii():
            _refuse_no_text(name)
    names = words(original_names) if names is None else names
    infos = [
        ClassInfo(index, name, slug, original_name=original_name, default_name=name)
        for index, (name, slug, original_name) in enumerate(zip(names, slugs(names), original_names, strict=True))
    ]
    if user_words:
        infos = _with_words(infos, user_words)
    counts = Counter(info.name.lower() for info in infos)
    return tuple(replace(info, homonym=counts[info.name.lower()] > 1) for info in infos)


def called(infos: Sequence[ClassInfo], user_words: Path | Mapping[str, str]) -> tuple[ClassInfo, ...]:
    """Give the classes of a shipped data set the words that the user has for them; they keep their own names, too.

    Raises:
        DatasetError: the file cannot be read, or a class is named that does not exist.
    """
    return tuple(
        _with_words([replace(info, original_name=info.name, default_name=info.name) for info in infos], user_words)
    )


def _refuse_no_text(name: str) -> None:
    """Check that the name of a class can be written; JSON can hold halves of letters.

    Raises:
        DatasetError: it cannot.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"the class name {name!r} is no text in UTF-8; rename the class") from error


def names_without_meaning(classes: Iterable[ClassInfo]) -> list[str]:
    """List the class names that tell a model nothing: numbers, `class 7`, WordNet ids, and single letters.

    A single sign of a script without capitals may be a word, as in Chinese.
    """
    return [info.name for info in classes if _is_letter(info.name) or _EMPTY_NAME.fullmatch(info.name.strip().lower())]


def _is_letter(name: str) -> bool:
    return len(name) == 1 and name.lower() != name.upper()


def _with_words(infos: Sequence[ClassInfo], user_words: Path | Mapping[str, str]) -> list[ClassInfo]:
    """Give the classes the words that the user has for them."""
    try:
        if isinstance(user_words, Path):
            where = f"dataset.words {str(user_words)!r}"
            by_name: Mapping[str, str] = by_class.read_words(user_words, "dataset.words")
        else:
            where, by_name = "dataset.words", user_words
        by_class.check_classes(by_name, infos, where)
    except InputError as error:
        raise DatasetError(str(error)) from error
    return [replace(info, name=by_class.value_of(by_name, info) or info.name) for info in infos]
