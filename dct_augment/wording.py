"""Words that messages share: numbers with their nouns and verbs, the first of many names, what the system says."""

import difflib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

_NUMBER = re.compile(r"\[errno -?\d+\] ?", re.IGNORECASE)  # pyarrow writes it inside of its words
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Signs that steer a terminal, or turn the direction of what follows, where names have no use for them."""
_PLURAL_VERBS = {"is": "are", "was": "were", "has": "have", "does": "do", "cannot": "cannot"}


def counted(number: int, noun: str, verb: str = "") -> str:
    """Write a number with its noun, and with a verb that agrees: `1 class`, `2 classes`, `1,200 images are`.

    Noun and verb are given as for one. Words after `of` stay as they are: `2 groups of copies` is
    `counted(2, "group of copies")`.
    """
    head, of, rest = noun.partition(" of ")
    words = f"{number:,} {head if number == 1 else _plural(head)}{of}{rest}"
    return f"{words} {agreeing(number, verb)}" if verb else words


def counted_of(number: int, total: int, noun: str, verb: str = "") -> str:
    """Write how many of a total something is true of: `1 of 3 classes`, `2 of 3 classes have`."""
    words = f"{number:,} of {counted(total, noun)}"
    return f"{words} {agreeing(number, verb)}" if verb else words


def agreeing(number: int, verb: str) -> str:
    """Give the verb that agrees with a number; it is named by its form for one: `is`, `has`, `lies`."""
    return verb if number == 1 else _PLURAL_VERBS.get(verb, verb.removesuffix("s"))


def size(count: float) -> str:
    """Write a number of bytes in the unit that suits: `340 kB`, `12 MB`, `3.4 GB`."""
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:,.1f} {unit}" if count < 10 * length else f"{count / length:,.0f} {unit}"
    return f"{count / 1e3:,.0f} kB"


def visible(text: str) -> str:
    """Write a text so that no sign of it steers the terminal: each that would is written as Python writes it."""
    text = _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return text.encode("utf-8", "backslashreplace").decode()  # a path may be no text


def name_problem() -> str:
    """Say what is wrong with a name of a file that is no text here, and what to do."""
    encoding = sys.getfilesystemencoding().upper()
    if encoding != "UTF-8":
        return f"is not {encoding}, as names are read here; set LC_ALL=C.UTF-8, and leave PYTHONUTF8=0 out"
    return "is not UTF-8; rename it"


def listed(names: Sequence[str], most: int) -> str:
    """List names for a message: the first few of many, and `...` for the others."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Suggest the name that is spelled most like a word, in brackets; empty if none is."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def command_of(verb: str, root: Path) -> str:
    """Write a command on a run folder, with the settings of the last work in it, if they are there."""
    return shlex.join(["dct-augment", *verb.split(), *settings_of(root)])


def settings_of(root: Path) -> list[str]:
    """List the options that give a command the settings of the last work in a run folder; none if it has none."""
    path, url = root / "config.yaml", root / ".store" / "url"
    if not path.is_file():
        return []
    place = url.read_text(encoding="utf-8") if url.is_file() else str(root)  # the folder mirrors a run on a store
    return ["--config", f"{place}/config.yaml", "--output", place]


def reason_of(error: BaseException) -> str:
    """Give the words of an error, or of the one that it wraps, without the number that the system has for it."""
    cause = getattr(error, "reason", None)
    if isinstance(cause, BaseException):  # urllib's
        return reason_of(cause)
    words = getattr(error, "strerror", None) or str(error)
    return _NUMBER.sub("", words).rstrip(" .")


def in_one_line(error: BaseException | str, most: int = 300) -> str:
    """Write the words of a library's error in one line, without a full stop at the end, to stand inside a sentence."""
    words = error if isinstance(error, str) else str(error)
    return " ".join(words.split())[:most].rstrip(" .") or type(error).__name__


def why_no_json(error: Exception) -> str:
    """Say what is wrong with a text, by the error of reading it as JSON."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"it is no text in UTF-8, at byte {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON, at line {error.lineno}, column {error.colno}"
    return "it holds a number of too many digits"


def hub_is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE is set, as the Hub's package reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def what_loads_from_the_hub() -> str:
    """Say that only what is in the Hub's cache loads: as HF_HUB_OFFLINE is set, or where there is no network."""
    if hub_is_offline():
        return "HF_HUB_OFFLINE is set, so only what is in the Hub's cache loads: unset it for the first run"
    return "without a network only what is in the Hub's cache loads"


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"
