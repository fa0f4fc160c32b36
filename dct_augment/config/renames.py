"""Keys of earlier versions of the configuration: each is an error that names the new one."""

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
    "randaugment",
    "mixup",
    "cutmix",
    "synthetic_probability",
)

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
    **{f"benchmark.{key}": f"downstream.{key}" for key in _CLASSIFIER},
}
"""Old key to new key: schema 1 (version 0.1.0) to schema 2."""

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
            del values[key]
            problems.append(f"{old}: is called {new} now; {_what_to_do(old)}")
    return problems


def _what_to_do(old: str) -> str:
    """Say that a setting of one gradient method has no place under another."""
    methods = [name for name, keys in _OF_METHOD.items() if old.removeprefix("tokens.") in keys]
    if not methods:
        return "rename it"
    return f"rename it if tokens.method is {' or '.join(methods)}, else delete it"


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
