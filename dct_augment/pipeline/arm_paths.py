"""Where the arms with images of their own keep what they make; a folder carries the hash of what decides it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dct_augment import config as configuration
from dct_augment import diffusion
from dct_augment.benchmark.arms import ARMS, Arm, ArmDraw

if TYPE_CHECKING:
    from dct_augment.pipeline.context import RunContext

_SET_BY_THE_DRAW = ("shots", "few_shot_seed", "imbalance")
"""What an arm takes from its draw, whatever the section of textual inversion says."""


class ArmPaths:
    """The paths of the arms of one run."""

    def __init__(self, context: "RunContext") -> None:
        self._context, self._config = context, context.config

    @property
    def images(self) -> dict[str, Path]:
        """The folders of the synthetic images of each arm; one without images of its own has those of the run."""
        settings = self._config.generation
        images = {**self._context.identity("generation"), "allow_uncertified": settings.allow_uncertified}
        images.pop("guide", None)
        return {
            name: self._root / f"{name}-{self._fingerprint(arm, images)}" if arm.own_images else self._config.root
            for name, arm in ARMS.items()
            if arm.images is not None
        }

    def tokens(self, draw: ArmDraw) -> Path:
        """The folder of the class tokens that an arm learns from one draw.

        Arms whose images differ by settings of generation alone, in runs with one `benchmark.arms_folder`, share it.
        """
        arm = ARMS[draw.arm]
        name = draw.arm if arm.tokens_from else "class_token_few_shot_guide"  # their guide is the same
        return self._root / f"tokens-{name}-{self._fingerprint(arm)}" / f"{draw.shots}-{draw.seed}"

    def lora(self, draw: ArmDraw) -> Path:
        """The file of the LoRA that arms learn from one draw; all arms with a LoRA share it."""
        folder = self._root / f"lora-{configuration.fingerprint(self._context.identity('lora'))[:8]}"
        return folder / f"{draw.shots}-{draw.seed}" / diffusion.lora.FILE

    @property
    def _root(self) -> Path:
        return self._config.benchmark.arms_folder or self._config.root / "arms"

    def _fingerprint(self, arm: Arm, images: Mapping[str, Any] | None = None) -> str:
        """Hash what decides the tokens of an arm with images of its own, and its images if their settings are given."""
        context = self._context
        tokens = context.identity("tokens")
        if arm.tokens_from == "textual_inversion":
            inversion = self._config.textual_inversion.model_dump(mode="json")
            tokens["textual_inversion"] = {key: inversion[key] for key in inversion if key not in _SET_BY_THE_DRAW}
        decides = {**context.identity("arms"), "tokens": tokens}
        if arm.tokens_from == "textual_inversion" or not context.has_few_shot_guide:
            tokens.pop("guide", None)  # the arm has none, or one of its own
            decides.pop("guide", None)
        # Only a guide that is no `few_shot` is trained by the recipe of the benchmark's classifier.
        if not arm.guide_of_draw or context.has_few_shot_guide:
            decides["downstream"] = None
        if arm.lora and (arm.tokens_from or images):  # the guide knows nothing of it
            decides["lora"] = context.identity("lora")
        return configuration.fingerprint(decides, images or {})[:8]
