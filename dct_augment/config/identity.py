"""Which settings decide the result of each stage: a table. What only changes speed is in no row."""

from collections.abc import Mapping
from typing import Any, Literal

from dct_augment.config.base import CONFUSED_CLASS
from dct_augment.config.tokens import TokensConfig

Part = Literal["tokens", "lora", "generation", "arms", "benchmark", "metrics"]
"""What has an identity of its own, by which finished work is recognised."""

_REAL_IMAGES = tuple(
    f"dataset.{key}"
    for key in (
        "name",
        "classes",
        "path",
        "val",
        "test",
        "val_images",
        "seed",
        "value_range",
        "background",
        "max_pixels",
        "duplicates",
        "title",
        "class_order",
        "root",
        "crop",
        "version",
        "language",
        "taxon",
        "level",
        "partition",
        "path_column",
        "image_column",
        "image_key",
        "label_column",
        "label_key",
        "split_column",
        "revision",
        "subset",
    )
)
_IMAGE_OF_A_PROMPT = ("dataset.name", "model", "prompts", "sampling", "guide")
_GENERATION = ("image_format", "seed", "start", "strengths", "guidance_scale", "token_noise")
_CLASSIFIER = (
    "downstream.model",
    "downstream.pretrained",
    "downstream.train",
    "downstream.image_size",
    "downstream.preprocessing",
    "downstream.steps",
    "downstream.batch_size",
    "downstream.optimizer",
    "downstream.learning_rate",
    "downstream.weight_decay",
    "downstream.randaugment_operations",
    "downstream.randaugment_magnitude",
    "downstream.mixup",
    "downstream.cutmix",
)

_CHOICE = ("imbalance", "filter_confidence", "selection", "candidates")

WEIGHTS = "weights"
"""What the hash of a local model's files is called beside its settings."""

MATCH_HASH, TINY_DECODER_HASH, INIT_FROM_HASH = "match_sha256", "tiny_decoder_sha256", "init_from_sha256"
FEATURES_HASH = "features_sha256"

NEW_SETTINGS = ("certificate_looks", "plain_first", "val_images")
"""Settings of today that older versions had not: what they made without these is still good."""

HASHES = (WEIGHTS, MATCH_HASH, TINY_DECODER_HASH, INIT_FROM_HASH, FEATURES_HASH)
"""What the hashes of files that settings name are called, beside these settings."""

DECIDES: Mapping[Part, tuple[str, ...]] = {
    "tokens": (*_IMAGE_OF_A_PROMPT, "tokens", "textual_inversion"),
    # Neither guide nor contexts have a part in it. A latent consistency model takes the guidance scale as an input.
    "lora": (*_REAL_IMAGES, "benchmark.imbalance", "model", "prompts.templates", "sampling.guidance_scale", "lora"),
    "generation": (*_IMAGE_OF_A_PROMPT, "judge", *(f"generation.{key}" for key in _GENERATION)),
    # The guide that is trained on a few-shot draw: nothing chooses it, and no synthetic image has a part in it.
    "arms": (*_REAL_IMAGES, *_CLASSIFIER, "benchmark.imbalance"),
    "benchmark": (*_REAL_IMAGES, "downstream", *(f"benchmark.{key}" for key in _CHOICE)),
    "metrics": (*_REAL_IMAGES, "metrics", "guide", "judge"),
}
"""The settings, or whole sections, that decide a result."""

CROSS_VALIDATION = ("benchmark.protocol", "benchmark.folds")
"""What decides the folds, and with them every result of cross-validation."""

SPEED_ONLY = frozenset(
    {
        "device",
        "model.memory",
        "model.compile",
        "tokens.classes_per_batch",
        "tokens.classes_per_work_unit",
        "runner",
        "generation.batch_size",
        "benchmark.processes",
        "downstream.workers",
    }
)
"""Settings that change how long work takes, and no result."""

RECORDED_WITH_EACH_RESULT = frozenset(
    {
        "dataset.words",
        "downstream.other_models",
        "generation.per_class",
        "generation.shard_size",
        "generation.allow_uncertified",
        "benchmark.arms",
        "benchmark.shots",
        "benchmark.seeds",
        "benchmark.repeats",
        "benchmark.seed",
        "benchmark.per_class",
        "benchmark.ratios",
        "benchmark.per_class_curve",
        "benchmark.shots_curve",
    }
)
"""Settings that say which results there are: names of classes, numbers of images, plans of trials."""

PRESENTATION = frozenset({"name", "output", "report", "on_class_failure", "benchmark.arms_folder"})
"""Settings that change where results lie and how they are shown."""


TOLD_OF_CLASSIFIERS = frozenset({"saw"})
"""Settings of a guide or judge that the report tells, and that change nothing else."""

PREPROCESSING = ("input_size", "mean", "std", "interpolation")
"""Settings of a guide or judge that decide results where they are set."""

FINE_TUNING = ("fine_tune_steps", "fine_tune_learning_rate")
"""Settings of a guide of photos that decide results where its backbone is trained, too."""


def identity(settings: Mapping[str, Any], schema: int, part: Part) -> dict[str, Any]:
    """Return the settings that decide a part's result, nested as the configuration is.

    Args:
        settings: the whole configuration as plain values, `Config.model_dump(mode="json")`.
        schema: version of the configuration's keys.
        part: whose result.
    """
    rows = DECIDES[part]
    if part == "tokens" and settings["tokens"]["objective"] == "classifier":
        rows = tuple(row for row in rows if row != "textual_inversion")
    if part in ("tokens", "lora") and settings["prompts"]["negative"] == CONFUSED_CLASS:
        settings = {**settings, "prompts": {**settings["prompts"], "negative": ""}}  # of generation alone
    if part == "tokens" and settings["tokens"]["photo_weight"]:
        rows = (*rows, *_REAL_IMAGES)
    if settings["benchmark"]["protocol"] == "cross_validation" and part in ("arms", "lora", "benchmark"):
        rows = (*rows, *CROSS_VALIDATION)
    if any(member["name"] == "few_shot" for member in settings["guide"]) and part not in ("lora", "benchmark"):
        rows = (*rows, *_REAL_IMAGES, "guide")
    decided: dict[str, Any] = {"schema": schema}
    for path in rows:
        _copy(settings, decided, path.split("."))
    for path in SPEED_ONLY | RECORDED_WITH_EACH_RESULT:
        _remove(decided, path.split("."))
    for role in ("guide", "judge"):
        if decided.get(role):
            decided[role] = [_deciding(member) for member in decided[role]]
    _remove_what_changes_nothing(decided)
    return decided


def _deciding(member: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a classifier that decide what is made.

    Those of preprocessing and fine-tuning are younger than the first runs, whose identities are without them.
    """
    without_effect = {key for key in PREPROCESSING if member.get(key) is None}
    if not member.get("fine_tune"):
        without_effect.update(FINE_TUNING)
    return {key: value for key, value in member.items() if key not in without_effect | TOLD_OF_CLASSIFIERS}


def _remove_what_changes_nothing(decided: dict[str, Any]) -> None:
    """Take out settings that leave a result as it is without them, so that those of older versions stay done."""
    if "model" in decided:
        decided["model"] = _without_no_adapters(decided["model"])
    generation, tokens, downstream = (decided.get(section) for section in ("generation", "tokens", "downstream"))
    if decided.get("model", {}).get("image_size", 0) is None:
        del decided["model"]["image_size"]
    if downstream and downstream.get("synthetic_labels") == "hard":
        del downstream["synthetic_labels"]
    if downstream and downstream.get("class_balance") == "photos":
        del downstream["class_balance"]
    if decided.get("benchmark", {}).get("selection") == "first":
        del decided["benchmark"]["selection"], decided["benchmark"]["candidates"]
    if generation and generation["start"] == "noise":
        del generation["start"], generation["strengths"]
    if generation and generation["guidance_scale"] in (None, decided["sampling"]["guidance_scale"]):
        del generation["guidance_scale"]
    if generation and not generation["token_noise"]:
        del generation["token_noise"]
    if tokens and tokens["photos_per_class"] == TokensConfig.model_fields["photos_per_class"].default:
        del tokens["photos_per_class"]
    if tokens and not tokens["photo_weight"]:
        for key in ("photo_weight", "photos_per_update", "photos_per_class"):
            tokens.pop(key, None)


def _without_no_adapters(model: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the list of adapters where it is empty, and their names, which are for messages."""
    adapters = [
        {key: value for key, value in adapter.items() if key != "name"} for adapter in model.get("adapters", ())
    ]
    settings = {key: value for key, value in model.items() if key != "adapters"}
    return {**settings, "adapters": adapters} if adapters else settings


def comparable(identity: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without the settings and hashes of files that a record of an older version does not have."""
    result = dict(identity)
    for section, value in identity.items():
        old = recorded.get(section)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            result[section] = _without_new(value, old)
        elif isinstance(value, list) and isinstance(old, list) and len(value) == len(old):
            result[section] = [_without_new(new, before) for new, before in zip(value, old, strict=True)]
    return result


def _without_new(settings: Any, recorded: Any) -> Any:
    if not isinstance(settings, Mapping) or not isinstance(recorded, Mapping):
        return settings
    return {key: value for key, value in settings.items() if key not in (*HASHES, *NEW_SETTINGS) or key in recorded}


def _copy(source: Mapping[str, Any], target: dict[str, Any], path: list[str]) -> None:
    key, *rest = path
    if key not in source:  # a setting of another kind of data set
        return
    if rest:
        _copy(source[key], target.setdefault(key, {}), rest)
    else:
        value = source[key]
        target[key] = dict(value) if isinstance(value, Mapping) else value


def _remove(target: dict[str, Any], path: list[str]) -> None:
    key, *rest = path
    if key not in target:
        return
    if rest:
        _remove(target[key], rest)
    else:
        del target[key]
