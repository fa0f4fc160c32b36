"""Names of ways of doing things, and seeds: the same on every machine."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hex) of any JSON-like values: the name of one way of doing things."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def seed_from(*parts: Any) -> int:
    """A seed in [0, 2^62) that depends on the given values alone, on every machine."""
    return int(fingerprint(*parts)[:16], 16) >> 2


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line per setting that differs between two identities: `tokens.seed: 0 -> 1`."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        left: Any = old.get(key)
        right: Any = new.get(key)
        are_lists = isinstance(left, list | tuple) and isinstance(right, list | tuple)
        if key in ("guide", "judge") and are_lists and len(left) == len(right) == 1:
            (left,), (right,) = left, right
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            old_value, new_value = (_in_words(key, value) for value in (left, right))
            lines.append(f"{prefix}{key}: {old_value} -> {new_value}")
    return lines


def _in_words(key: str, value: Any) -> str:
    """Write a setting for a message: of adapters their paths and weights, and the hash of what they hold."""
    if key != "adapters":
        return repr(value)
    return ", ".join(_adapter(each) for each in value or ()) or "none"


def _adapter(settings: Mapping[str, Any]) -> str:
    revision, file = settings.get("revision"), settings.get("weight_name")
    place = settings["path"] + (f"@{revision}" if revision else "") + (f"/{file}" if file else "")
    of_file = str(settings.get("weights", ""))[:8]
    return f"{place} x {settings['weight']:g}" + (f" ({of_file})" if of_file else "")
