"""Turns a class into the words that a text encoder reads: names, slugs, templates, contexts."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

TOKEN_PATTERN = re.compile(r"<dct-[a-z0-9-]+>")
TOKEN_FIELD, CLASS_FIELD, CONTEXT_FIELD = "{token}", "{class}", "{context}"


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


def words(original_name: str) -> str:
    """Turn a name that is spelled like a file's into words: `001.Black_footed_Albatross`, `seaGull`.

    Leading numbers go, underscores and capitals inside become spaces, the rest is lower case.
    """
    text = re.sub(r"^\d+[._ -]+(?=\D)", "", original_name.strip())
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text.replace("_", " "))
    return re.sub(r"\s+", " ", text).strip().lower() or original_name


def normalize_label(name: str) -> str:
    """Bring a name into the form in which labels are compared: without case, hyphens, and a leading `001.`."""
    text = re.sub(r"^\d+[._ -]+", "", name.strip().lower())
    return re.sub(r"[\s_-]+", " ", text).strip()


def token_name(dataset: str, slug: str) -> str:
    """Make the word that stands for a class token, unique across classes and data sets."""
    return f"<dct-{slugs([dataset])[0]}-{slug}>"


def build(template: str, class_name: str, *, token: str | None, context: str = "") -> str:
    """Fill a template such as `a photo of a {token} {class}{context}`.

    Without a token this is the plain prompt: the same words, the same spacing, no gap.
    """
    text = template.replace(TOKEN_FIELD, token or "")
    text = text.replace(CLASS_FIELD, class_name).replace(CONTEXT_FIELD, f" {context}" if context else "")
    return re.sub(r"\s+", " ", text).strip()


def choose(templates: Sequence[str], contexts: Sequence[str], number: int) -> tuple[str, str]:
    """Choose template and context of image `number`: all pairs in turn, so that every count is balanced."""
    template = templates[number % len(templates)]
    context = contexts[(number // len(templates)) % len(contexts)]
    return template, context
