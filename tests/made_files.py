"""What a run made: the files that must have the same bytes, whatever made or harmed them."""

import hashlib
from pathlib import Path

_DIFFER = ("config.yaml", "times.json")  # the engine that was asked for, and how long it took


def made_files(root: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a run by its relative path, but for the report, which has times in it."""
    digests = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and name.parts[0] != "report" and name.name not in _DIFFER:
            digests[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests
