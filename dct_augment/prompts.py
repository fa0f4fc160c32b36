"""Turns a class into the words that a text encoder reads: names, slugs, templates, contexts."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

TOKEN_PATTERN = re.compile(r"<dct-[a-z0-9-]+>")
PLACEHOLDER = "<dct-training>"
"""The word of a token that has none yet, as in training; vectors are put in where it stands."""

TOKEN_FIELD, CLASS_FIELD, CONTEXT_FIELD = "{token}", "{class}", "{context}"
_FIELDS = re.compile("|".join(map(re.escape, (TOKEN_FIELD, CLASS_FIELD, CONTEXT_FIELD))))


def slugs(names: Iterable[str]) -> tuple[str, ...]:
    """Make unique lower-case ASCII names for files and keys, in order.

    Accents are folded, everything else becomes `-`; names that fold alike get a number.
    """
    unique: list[str] = []
    taken: set[str] = set()
    for name in names:
        folded = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        base = re.sub(r"[^a-z0-9]+", "-", folded).strip("-")[:60].strip("-") or "class"
        slug, number = base, 2
        while slug in taken:
            slug, number = f"{base}-{number}", number + 1
        taken.add(slug)
        unique.append(slug)
    return tuple(unique)


def words(original_names: Sequence[str]) -> tuple[str, ...]:
    """Turn names that are spelled like files into words: `001.Black_footed_Albatross`, `seaGull`.

    Numbers that only count the classes go (`without_indices`), underscores and capitals inside become spaces, the rest
    is lower case.
    """
    return tuple(
        _as_words(name) or original_name
        for name, original_name in zip(without_indices(original_names), original_names, strict=True)
    )


def _as_words(name: str) -> str:
    text = re.sub(r"^(\d+)\.\s*(?=\D)", r"\1 ", name.strip())
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text.replace("_", " "))
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+", " ", text).strip().lower()


def without_indices(names: Sequence[str]) -> tuple[str, ...]:
    """Take the leading numbers off names, if they only count them: `001.Albatross`, `002.Auklet`.

    They do if no two are the same, names stay distinct without them, and they are padded with zeros; or, where every
    name has one, if they have a full stop after them or run from 0 or 1 without a gap. In `7_up`, `1_euro` and `2_euro`
    the number is a part of the name.
    """
    matches = [re.fullmatch(r"(\d+)([._ -]+)(.+)", name.strip(), re.DOTALL) for name in names]
    numbered = [match for match in matches if match is not None]
    numbers = [match[1] for match in numbered]
    if len(set(map(int, numbers))) < len(numbered) or not (_is_padded(numbers) or _count_all(numbered, len(names))):
        return tuple(names)
    rests = [name if match is None else match[3] for name, match in zip(names, matches, strict=True)]
    before, after = ({normalize_label(_as_words(name)) for name in spellings} for spellings in (names, rests))
    return tuple(rests) if len(after) == len(before) else tuple(names)


def _count_all(matches: Sequence[re.Match[str]], count: int) -> bool:
    """Whether all of `count` names have a number, no other digit follows it, and the numbers look like a list's."""
    if len(matches) < count or any(match[3][0].isdigit() for match in matches):
        return False
    return all(match[2].startswith(".") for match in matches) or _is_running([match[1] for match in matches])


def _is_padded(numbers: Sequence[str]) -> bool:
    """Whether numbers have one length, and zeros make some of them so long."""
    have_one_length = len({len(number) for number in numbers}) == 1
    return have_one_length and len(numbers[0]) > 1 and any(number.startswith("0") for number in numbers)


def _is_running(numbers: Sequence[str]) -> bool:
    """Whether two numbers or more run from 0 or 1 without a gap, in any order."""
    values = sorted(map(int, numbers))
    return len(values) > 1 and values[0] in (0, 1) and values == list(range(values[0], values[0] + len(values)))


def normalize_label(name: str) -> str:
    """Bring a name into the form in which labels are compared: without case, hyphens and underscores."""
    text = re.sub(r"^(\d+)\.\s*(?=\D)", r"\1 ", name.strip().lower())
    return re.sub(r"[\s_-]+", " ", text).strip()


def normalize_labels(names: Sequence[str]) -> tuple[str, ...]:
    """Bring all labels of a classifier into the form in which they are compared, without numbers that count them."""
    return tuple(map(normalize_label, without_indices(names)))


def token_name(dataset: str, slug: str) -> str:
    """Make the word that stands for a class token, unique across classes and data sets."""
    return f"<dct-{slugs([dataset])[0]}-{slug}>"


def build(template: str, class_name: str, *, token: str | None, context: str = "") -> str:
    """Fill a template such as `a photo of a {token} {class}{context}`.

    Without a token this is the plain prompt: the same words, the same spacing, no gap. Names and contexts that
    look like a field stay as they are.
    """
    words_of = {TOKEN_FIELD: token or "", CLASS_FIELD: class_name, CONTEXT_FIELD: f" {context}" if context else ""}
    text = _FIELDS.sub(lambda field: words_of[field[0]], template)
    return re.sub(r"\s+", " ", text).strip()


def choose(templates: Sequence[str], contexts: Sequence[str], number: int) -> tuple[str, str]:
    """Choose template and context of image `number`: all pairs in turn, so that every count is balanced."""
    template = templates[number % len(templates)]
    context = contexts[(number // len(templates)) % len(contexts)]
    return template, context
