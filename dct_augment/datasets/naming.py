"""From what a data set calls its classes to what prompts say."""

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from dct_augment.errors import DatasetError
from dct_augment.prompts import slugs, words
from dct_augment.records import ClassInfo


def infos(sources: Sequence[str], file: Path | None, names: Sequence[str] | None = None) -> tuple[ClassInfo, ...]:
    """The classes of a data set, numbered in order.

    `names` are what prompts say (cleaned from the sources if not given); `file` overrides some of them, by
    source, name or slug. Names may repeat: such classes are marked as homonyms, and their slugs differ.

    Raises:
        DatasetError: the file cannot be read, or names a class that does not exist.
    """
    said = [words(source) for source in sources] if names is None else list(names)
    short = slugs(said)
    for key, text in _overrides(file).items():
        places = [index for index, known in enumerate(zip(sources, said, short, strict=True)) if key in known]
        if not places:
            close = difflib.get_close_matches(key, [*sources, *said], n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise DatasetError(f"dataset.words {str(file)!r}: there is no class {key!r}{hint}")
        for index in places:
            said[index] = text
    counts = Counter(name.lower() for name in said)
    return tuple(
        ClassInfo(index, name, slug, counts[name.lower()] > 1, source)
        for index, (name, slug, source) in enumerate(zip(said, short, sources, strict=True))
    )


def _overrides(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        data = yaml.safe_load(file.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"dataset.words {str(file)!r} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict) or not all(isinstance(value, str) and value.strip() for value in data.values()):
        raise DatasetError(f"dataset.words {str(file)!r} must map classes to words, e.g. `n02012849: crane bird`")
    return {str(key): value.strip() for key, value in data.items()}
