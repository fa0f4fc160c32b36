"""How each arm is shown: its title, colour, marker and place, in every chart and table of the page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is shown everywhere: title, colour, marker, its twin in text, and what its classifier learns from."""

    title: str
    color: str
    marker: str
    glyph: str
    learns: str


NEUTRAL = "#8b8f96"
"""The colour of what belongs to no arm."""

# Mid-tones: at least 3:1 against a white and against a near-black page.
ARM_STYLES: Mapping[str, ArmStyle] = {
    "real": ArmStyle(
        title="real images",
        color=NEUTRAL,
        marker="v",
        glyph="▼",
        learns="the few real images, almost unchanged",
    ),
    "real+strong_aug": ArmStyle(
        title="strong augmentation",
        color="#6b7078",
        marker="s",
        glyph="■",
        learns="the few real images, strongly augmented",
    ),
    "real+linear_probe": ArmStyle(
        title="linear probe",
        color="#5c7f67",
        marker="p",
        glyph="⬟",
        learns="the few real images, almost unchanged; only the last layer learns",
    ),
    "plain_prompt": ArmStyle(
        title="plain prompts",
        color="#b7791f",
        marker="^",
        glyph="▲",
        learns="the same, and images generated with plain prompts",
    ),
    "image_variation": ArmStyle(
        title="image variations",
        color="#a3794f",
        marker="<",
        glyph="◀",
        learns="the same, and images that plain prompts make of these few real images with noise on them",
    ),
    "lora_plain_prompt": ArmStyle(
        title="LoRA, plain prompts",
        color="#c0673a",
        marker=">",
        glyph="▶",
        learns="the same, and images that plain prompts give with a LoRA, trained on these few real images",
    ),
    "textual_inversion": ArmStyle(
        title="textual inversion",
        color="#8a63d2",
        marker="D",
        glyph="◆",
        learns="the same, and images generated with tokens that rebuild the same few real images",
    ),
    "class_token": ArmStyle(
        title="class tokens",
        color="#3b82c4",
        marker="o",
        glyph="●",
        learns="the same, and images generated with class tokens of the run, whose guide is told below",
    ),
    "class_token_few_shot_guide": ArmStyle(
        title="few-shot-guide tokens",
        color="#169a7c",
        marker="P",
        glyph="✚",
        learns="the same, and images generated with class tokens, whose guide was trained on these few images alone",
    ),
    "lora_class_token": ArmStyle(
        title="LoRA, few-shot-guide tokens",
        color="#6d8f2f",
        marker="*",
        glyph="★",
        learns="the same, and images generated with class tokens and a LoRA, which know these few images alone",
    ),
    "class_token_filtered": ArmStyle(
        title="filtered tokens",
        color="#c2558a",
        marker="X",
        glyph="✖",
        learns="the same, and those class-token images that the guide accepts",
    ),
}
"""Arms in the order of the page."""


def arm_style(arm: str) -> ArmStyle:
    """Return how an arm is shown; an arm without an entry gets its name and a neutral look."""
    return ARM_STYLES.get(arm, ArmStyle(title=arm, color=NEUTRAL, marker="o", glyph="●", learns=""))


def arms_in_page_order(arms: Iterable[str]) -> list[str]:
    """Sort arms into the order of the page; those without an entry come last."""
    arms = list(arms)
    listed = [arm for arm in ARM_STYLES if arm in arms]
    return listed + [arm for arm in arms if arm not in ARM_STYLES]


def in_page_order(by_arm: Mapping[str, Any]) -> dict[str, Any]:
    """Sort a mapping by arm into the order of the page."""
    return {arm: by_arm[arm] for arm in arms_in_page_order(by_arm)}
