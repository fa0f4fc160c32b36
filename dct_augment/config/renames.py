"""Keys of earlier versions of the configuration: each is an error that names the new one."""

import re
from collections.abc import Mapping
from typing import Any

_CLASSIFIER = (
    "model",
    "pretrained",
    "train",
    "image_size",
    "steps",
    "batch_size",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "mixup",
    "cutmix",
    "synthetic_probability",
)

_RANDAUGMENT = "downstream.randaugment_operations and downstream.randaugment_magnitude"

RENAMED: Mapping[str, str] = {
    "dataset.image": "dataset.image_column",
    "dataset.label": "dataset.label_column",
    "tokens.last_k": "tokens.method.steps",
    "tokens.renoised": "tokens.method.copies",
    "tokens.serves": "tokens.method.updates_per_image",
    "tokens.recovered": "tokens.method.predicted_noise_share",
    "tokens.look_ahead": "tokens.method.positions",
    "tokens.hopeless": "tokens.give_up_below",
    "tokens.restart_below": "tokens.restart_below_accuracy",
    "tokens.group": "tokens.classes_per_work_unit",
    "tokens.slots": "tokens.classes_per_batch",
    "tokens.start": "tokens.init_from",
    "tokens.least_diversity": "tokens.min_diversity_ratio",
    "textual_inversion.draw": "textual_inversion.few_shot_seed",
    "metrics.neighbours": "metrics.nearest_neighbours",
    "metrics.resamples": "metrics.bootstrap_resamples",
    "benchmark.validations": "downstream.validation_rounds",
    "report.strip": "report.images_per_class",
    "benchmark.randaugment": _RANDAUGMENT,
    "downstream.randaugment": _RANDAUGMENT,
    **{f"benchmark.{key}": f"downstream.{key}" for key in _CLASSIFIER},
}
"""Old key to what it is called now; most are of schema 1 (version 0.1.0)."""

_OF_METHOD = {
    "last_k": {"last_k": "steps"},
    "lv": {"renoised": "copies"},
    "look_ahead": {"look_ahead": "positions"},
    "direct_align": {"serves": "updates_per_image", "recovered": "predicted_noise_share", "look_ahead": "positions"},
}


def take_out(data: dict[str, Any]) -> list[str]:
    """Remove old keys from a configuration in place; return a line for each that says what it is called now."""
    problems = []
    for old, new in RENAMED.items():
        section, _, key = old.partition(".")
        values = data.get(section)
        if isinstance(values, dict) and key in values:
            value = values.pop(key)
            problems.append(f"{old}: is called {new} now; {_what_to_do(old, value)}")
    return problems


def _what_to_do(old: str, value: Any) -> str:
    """Say what to write instead: that a setting of one gradient method has no place under another, and numbers."""
    if RENAMED[old] == _RANDAUGMENT:
        return f"write {_randaugment(value)}"
    methods = [name for name, keys in _OF_METHOD.items() if old.removeprefix("tokens.") in keys]
    if not methods:
        return "rename it"
    return f"rename it if tokens.method is {' or '.join(methods)}, else delete it"


def _randaugment(value: Any) -> str:
    """Say timm's `rand-m7-n2` in numbers: its magnitude 10 is 30 today. What it does not say is 10, and 2."""
    text = str(value)
    magnitude, operations = re.search(r"-m(\d+)", text), re.search(r"-n(\d+)", text)
    count = int(operations[1]) if operations else 2
    if not text.startswith("rand") or count < 1:
        return "how many operations an image gets, and how strong they are, 0 to 30"
    return f"{count} and {min(30, 3 * int(magnitude[1]) if magnitude else 30)}"


def upgrade_token_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a token's identity as today's keys say it, so that tokens of version 0.1.0 are still known.

    Only settings are renamed; a token that was trained with other settings still differs.
    """
    if identity.get("schema") != 1:
        return dict(identity)
    upgraded = dict(identity) | {"schema": 2, "dataset": {"name": identity["dataset"]}}
    upgraded["tokens"] = _upgrade_tokens(identity["tokens"])
    if "textual_inversion" in identity:
        upgraded["textual_inversion"] = _rename("textual_inversion", identity["textual_inversion"])
    return upgraded


def _upgrade_tokens(tokens: Mapping[str, Any]) -> dict[str, Any]:
    names = _OF_METHOD.get(tokens["method"], {})
    method = {"name": tokens["method"]} | {new: tokens[old] for old, new in names.items()}
    dropped = {key for keys in _OF_METHOD.values() for key in keys}
    renamed = {key: value for key, value in tokens.items() if key not in dropped}
    return _rename("tokens", renamed) | {"method": method}


def _rename(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {}
    for key, value in values.items():
        new = RENAMED.get(f"{section}.{key}", key)
        renamed[new.rpartition(".")[2]] = value
    return renamed
