"""Turns what a data set calls its classes into what prompts say."""

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from dct_augment.errors import DatasetError
from dct_augment.prompts import slugs, words
from dct_augment.records import ClassInfo


def class_infos(
    original_names: Sequence[str], words_file: Path | None, names: Sequence[str] | None = None
) -> tuple[ClassInfo, ...]:
    """Number and name the classes of a data set, in order.

    `names` are what prompts say (made from the original names if not given); `words_file` overrides some of them, by
    original name, name or slug. Names may repeat: such classes are marked as homonyms, and their slugs differ.

    Raises:
        DatasetError: the file cannot be read, or names a class that does not exist.
    """
    prompt_names = [words(name) for name in original_names] if names is None else list(names)
    short_names = slugs(prompt_names)
    spellings = list(zip(original_names, prompt_names, short_names, strict=True))
    for key, text in _overrides(words_file).items():
        places = [place for place, spelling in enumerate(spellings) if key in spelling]
        if not places:
            close = difflib.get_close_matches(key, [*original_names, *prompt_names], n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise DatasetError(f"dataset.words {str(words_file)!r}: there is no class {key!r}{hint}")
        for place in places:
            prompt_names[place] = text
    counts = Counter(name.lower() for name in prompt_names)
    return tuple(
        ClassInfo(index, name, slug, homonym=counts[name.lower()] > 1, original_name=original_name)
        for index, (name, slug, original_name) in enumerate(zip(prompt_names, short_names, original_names, strict=True))
    )


def _overrides(words_file: Path | None) -> dict[str, str]:
    """Read the user's words for some classes."""
    if words_file is None:
        return {}
    try:
        data = yaml.safe_load(words_file.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"dataset.words {str(words_file)!r} cannot be read: {reason}") from error
    if not isinstance(data, dict) or not all(isinstance(value, str) and value.strip() for value in data.values()):
        raise DatasetError(f"dataset.words {str(words_file)!r} must map classes to words, e.g. `n02012849: crane bird`")
    return {str(key): value.strip() for key, value in data.items()}
