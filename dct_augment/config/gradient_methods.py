"""The gradient methods and the settings that each has; a setting of another method is an error, not taken silently."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from dct_augment.config.base import Fraction, PositiveInt, Section

Positions = Annotated[tuple[tuple[Fraction, Fraction], ...], Field(min_length=1)]
DEFAULT_POSITIONS = ((0.15, 0.75), (0.4, 1.0))


class LastStepConfig(Section):
    """Denoise to the end and keep the gradient of the last step: the paper's method (section 3.2)."""

    name: Literal["last_step"] = "last_step"


class LastKConfig(Section):
    """Keep the gradient of the last K steps (DRaFT-K, arXiv 2309.17400)."""

    name: Literal["last_k"] = "last_k"
    steps: PositiveInt = Field(2, description="how many of the last steps carry the gradient")


class FullConfig(Section):
    """Keep the gradient of the whole trajectory, with checkpoints (AlignProp, arXiv 2310.03739)."""

    name: Literal["full"] = "full"


class LvConfig(Section):
    """Average the last step's gradient over renoised copies of each image (DRaFT-LV, arXiv 2309.17400)."""

    name: Literal["lv"] = "lv"
    copies: PositiveInt = Field(2, description="copies of each finished image, each with new noise")


class _AtPosition(Section):
    positions: Positions = Field(
        DEFAULT_POSITIONS,
        description="part of the trajectory, in [0, 1], in which the step with the gradient lies; one per attempt",
    )

    @field_validator("positions")
    @classmethod
    def _rise(cls, positions: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        for low, high in positions:
            if low >= high:
                raise ValueError(f"range [{low}, {high}] must rise, e.g. [0.15, 0.75]")
        return positions


class LookAheadConfig(_AtPosition):
    """Stop inside the trajectory and take the gradient of the clean image predicted there."""

    name: Literal["look_ahead"] = "look_ahead"


class DirectAlignConfig(_AtPosition):
    """Add known noise to a finished image and recover it in one step (SRPO, arXiv 2509.06942)."""

    name: Literal["direct_align"] = "direct_align"
    updates_per_image: PositiveInt = Field(6, description="updates that one finished image is used for")
    predicted_noise_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of the added noise that the model predicts; the known noise is used for the rest"
    )


def _by_name(value: Any) -> Any:
    """`look_ahead` stands for `{name: look_ahead}`; settings without a name are those of the default."""
    if isinstance(value, str):
        return {"name": value}
    return {"name": "direct_align", **value} if isinstance(value, dict) else value


GradientMethodConfig = Annotated[
    Annotated[
        LastStepConfig | LastKConfig | FullConfig | LvConfig | LookAheadConfig | DirectAlignConfig,
        Field(discriminator="name"),
    ],
    BeforeValidator(_by_name),
]
"""A gradient method with its settings, chosen by `name`; the name alone is enough."""
