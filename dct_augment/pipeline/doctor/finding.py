"""One line of what `doctor` finds."""

from dataclasses import dataclass
from typing import Literal

from dct_augment.wording import hub_is_offline

State = Literal["ok", "warning", "missing"]


_ACCEPT = "read and accept the licence on the model's page if it asks for that (huggingface-cli login)"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was examined, its state, and the fix if it is not ok."""

    what: str
    state: State
    detail: str
    fix: str = ""


def absent(what: str, name: str, part: str, is_local: bool) -> Finding:
    """Say what a model lacks, and how to get it."""
    if is_local:
        return Finding(what, "missing", f"{name} lacks {part}", "complete the folder, or correct the path or variant")
    detail = f"{name}: {part} not in the Hub's cache"
    if hub_is_offline():
        fix = f"unset HF_HUB_OFFLINE for the first run, or copy the cache here; {_ACCEPT}"
        return Finding(what, "missing", f"{detail}, and HF_HUB_OFFLINE is set", fix)
    return Finding(what, "missing", f"{detail} yet", f"the first run downloads it from the Hub; {_ACCEPT}")
