"""The settings of a guide or judge: a pretrained classifier, one made of a few photos, or one made of class names."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from dct_augment.config.base import ImageSize, Positive, PositiveInt, Rate, Section, Seed, UserPath, WrittenPath
from dct_augment.prompts import CLASS_FIELD

Colour = tuple[float, float, float]
PositiveColour = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]

Saw = Literal["these_photos", "this_training_set", "unknown"]
"""Which pictures a classifier has learned from."""


def _text_or_path(value: Any) -> Any:
    """Refuse what is no text with one message, not with one for each type that `match` may have."""
    if not isinstance(value, str | Path):
        raise ValueError("must be 'name', 'index', or a YAML file `class: label`")
    return value


class ClassifierConfig(Section):
    """One frozen classifier of a guide or judge.

    `name` is `pocket/<name>`, a timm name (`resnet50.a1_in1k`, `hf-hub:<id>`, `local-dir:<folder>`), a Hub id
    or folder of a transformers image classifier, or `module:function` with `library: function`.
    """

    name: str = Field(description="which classifier; see above for the forms of a name")
    library: Literal["timm", "transformers", "function"] | None = Field(
        None, description="told from the name if unset; `function` is never guessed"
    )
    revision: str | None = Field(None, description="branch, tag or commit on the Hub")
    checkpoint: UserPath | None = Field(
        None, description="weights for a timm architecture: safetensors or a torch file"
    )
    labels: UserPath | None = Field(None, description="label names in output order: a .txt, .json or .yaml list")
    pooling: Literal["model", "mean_before_norm"] = Field(
        "model", description="`mean_before_norm`: mean of patch tokens, then the final norm (the vit-mae classifiers)"
    )
    match: Annotated[Literal["name", "index"] | WrittenPath, BeforeValidator(_text_or_path)] = Field(
        "name", description="how classes find their label: by name, by index, or a YAML file `class: label`"
    )
    input_size: PositiveInt | None = Field(
        None, description="of a checkpoint: side of its input, in pixels; as timm has it for the architecture if unset"
    )
    mean: Colour | None = Field(
        None, description="of a checkpoint: mean of red, green and blue, 0 to 1; the architecture's if unset"
    )
    std: PositiveColour | None = Field(
        None, description="of a checkpoint: deviation of red, green and blue; the architecture's if unset"
    )
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos"] | None = Field(
        None, description="of a checkpoint: how pictures are resized; the architecture's if unset"
    )
    saw: Saw | None = Field(
        None,
        description="what it has learned from, for the report alone: `these_photos` of the run, `this_training_set` "
        "(all of it), or `unknown`; if unset, Pocket's have seen this_training_set, and of others it is unknown",
    )
    weight: Positive = Field(1.0, description="in an ensemble")


class FewShotClassifierConfig(Section):
    """A classifier made of the training photos of the run, or of the fold, alone: heads on a pretrained backbone."""

    name: Literal["few_shot"] = "few_shot"
    backbone: str = Field(
        "vit_small_patch14_dinov2.lvd142m",
        description="pretrained timm model: name, hf-hub:ID, local-dir:FOLDER, or `pocket/backbone`",
    )
    revision: str | None = Field(None, description="branch, tag or commit of the backbone on the Hub")
    image_size: ImageSize | None = Field(
        None, description="side of the backbone's input, in pixels; its own if unset, but at most 224"
    )
    head: Literal["linear", "cosine", "mlp"] = Field("linear", description="what is trained on the features")
    heads: PositiveInt = Field(4, description="heads, each trained from a seed of its own; their answers are averaged")
    fine_tune: bool = Field(False, description="train the backbone, too, after the heads")
    fine_tune_steps: PositiveInt = Field(60, description="gradient steps of `fine_tune`, on batches of 32 views")
    fine_tune_learning_rate: Rate = Field(
        5e-5,
        description="peak of the backbone's rate in `fine_tune`, one cycle; the heads' is 0.001, or this if higher",
    )
    augmentations: PositiveInt = Field(
        8, description="views of a photo that the heads train on: the photo itself, and others cut from it"
    )
    flips: bool | None = Field(
        None,
        description="mirror half of the views; if unset, whether that is better is told by the out-of-fold answers",
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="of the loss of the heads")
    folds: Annotated[int, Field(ge=2)] = Field(
        5, description="folds of the out-of-fold answers; never more than the smallest class has photos"
    )
    seed: Seed = Field(0, description="decides the heads, the views and the folds")
    weight: Positive = Field(1.0, description="in an ensemble")


class ZeroShotClassifierConfig(Section):
    """A classifier made of class names: CLIP or SigLIP compares an image with prompts of every class."""

    name: Literal["zero_shot"] = "zero_shot"
    model: str = Field("openai/clip-vit-base-patch32", description="Hub id or folder of a CLIP or SigLIP model")
    revision: str | None = Field(None, description="branch, tag or commit on the Hub")
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("a photo of a {class}",), description="prompts of a class, whose embeddings are averaged; each holds `{class}`"
    )
    weight: Positive = Field(1.0, description="in an ensemble")

    @field_validator("templates")
    @classmethod
    def _holds_class(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count(CLASS_FIELD) != 1:
                raise ValueError(f"template {template!r} must hold {CLASS_FIELD} exactly once")
        return templates


AnyClassifierConfig = ClassifierConfig | FewShotClassifierConfig | ZeroShotClassifierConfig
"""The settings of any member of a guide or judge."""


def classifier_title(member: AnyClassifierConfig) -> str:
    """Name a classifier for a person; of one that is made here, also the model that it is made on."""
    if isinstance(member, FewShotClassifierConfig):
        return f"{member.name} on {member.backbone}"
    if isinstance(member, ZeroShotClassifierConfig):
        return f"{member.name} on {member.model}"
    return member.name


def what_it_saw(members: Iterable[AnyClassifierConfig]) -> Saw:
    """Tell which pictures a guide or judge has learned from: of its members, the one that has seen most."""
    seen = {_seen_by(member) for member in members}
    order: tuple[Saw, ...] = ("this_training_set", "unknown", "these_photos")
    return next(saw for saw in order if saw in seen)


def _seen_by(member: AnyClassifierConfig) -> Saw:
    if isinstance(member, FewShotClassifierConfig):
        return "these_photos"
    if isinstance(member, ZeroShotClassifierConfig):
        return "unknown"
    return member.saw or ("this_training_set" if member.name.startswith("pocket/") else "unknown")


_MADE_HERE = ("few_shot", "zero_shot")
PRETRAINED = "pretrained"
"""The tag of the settings whose `name` says which classifier it is."""


def _kind(value: Any) -> str:
    """Tell which settings a classifier has by its name: one that is made here, or else a pretrained one."""
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return str(name) if name in _MADE_HERE else PRETRAINED


def _listed(value: Any) -> Any:
    """Turn one classifier, or its name alone, into a list."""
    values = [value] if isinstance(value, Mapping | str) else value
    if not isinstance(values, list | tuple):
        return values
    return [{"name": member} if isinstance(member, str) else member for member in values]


_Member = Annotated[
    Annotated[ClassifierConfig, Tag(PRETRAINED)]
    | Annotated[FewShotClassifierConfig, Tag("few_shot")]
    | Annotated[ZeroShotClassifierConfig, Tag("zero_shot")],
    Discriminator(_kind),
]

Ensemble = Annotated[tuple[_Member, ...], Field(min_length=1), BeforeValidator(_listed)]
"""A guide or judge: one classifier or its name, or a list of them whose probabilities are averaged by weight."""


def is_few_shot(value: Any) -> bool:
    """Tell whether a guide, as a configuration file has it, or a member of it is made of photos."""
    members = _listed(value)
    return isinstance(members, list | tuple) and any(_kind(member) == "few_shot" for member in members)
