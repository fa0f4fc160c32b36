"""Writes the first configuration of a user who has photos and nothing else."""

import shlex
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dct_augment import config as configuration
from dct_augment import files
from dct_augment.config import Config
from dct_augment.errors import InputError
from dct_augment.pipeline.first_config import models
from dct_augment.pipeline.first_config.models import Machine, ModelChoice
from dct_augment.pipeline.first_config.photos import Photos
from dct_augment.pipeline.first_config.target import refuse_existing, run_name
from dct_augment.pipeline.first_config.yaml_text import YamlSection, dump, one_line
from dct_augment.pocket import birds, handwriting
from dct_augment.prompts import CLASS_FIELD
from dct_augment.records import ClassInfo

WORDS_INSIDE = 50
"""Words of more classes are in a file of their own."""

MOST_FOLDS = 5
"""Folds of cross-validation, at most."""

_FEWEST_DRAWS = 4
"""Draws of cross-validation, at least: with fewer, hardly any interval is narrow enough to say something."""

_MOST_SHOTS = 20
_BACKBONE = "vit_small_patch14_dinov2.lvd142m"
_POCKET_BACKBONE = "pocket/backbone"
_ARMS = ("real", "real+strong_aug", "real+linear_probe", "plain_prompt")

_SHARES = {1: 0.7, 5: 0.5, 10: 0.3}
"""Of synthetic images by shots: tuned on CUB with Stable Diffusion 1.5 for DA-Fusion and others (arXiv 2603.08364)."""

_POCKET_SHARES = {5: 0.7, 10: 0.5}
"""The same of Pocket: tuned there (configs/studies/gain.yaml)."""

_TOKENS = {
    "init_word": CLASS_FIELD,
    "vectors": 4,
    "photo_weight": 1.0,
    "photos_per_update": 8,
    "target_accuracy": 1.0,
    "restarts": 1,
    "restart_words": 32,
    "restart_below_accuracy": 0.2,
}
"""Both losses on one token, from the class name, as in the row `both` of configs/studies/gain.yaml."""
_QUICK_TOKENS = {"max_updates": 40, "validation_images": 8, "certificate_images": 12, "certificate_looks": 1}


@dataclass(frozen=True)
class FirstConfig:
    """A configuration for some photos, which is not written yet.

    `command` is what the user called, for the first line of the file. `quick` is for a first answer: fewer folds,
    updates and images.
    """

    path: Path
    photos: Photos
    machine: Machine
    model: ModelChoice
    command: str
    quick: bool = False

    @property
    def name(self) -> str:
        """The name of the run: that of the file, in letters that a name may have."""
        return run_name(self.path.stem)

    @property
    def words_path(self) -> Path | None:
        """The file of the words, if there are too many classes for the configuration itself."""
        many = len(self.photos.classes) > WORDS_INSIDE
        return self.path.with_name(f"{self.path.stem}-words.yaml") if many else None

    @cached_property
    def text(self) -> str:
        """The configuration, as YAML with comments."""
        return "\n".join(map(str, self._sections()))

    @property
    def words_text(self) -> str:
        """The words of all classes, as YAML with a comment."""
        comment = f"# What prompts call each class of {one_line(self.path.name)}. Better words give better images."
        return f"{comment}\n{dump(words_of(self.photos.classes))}\n"

    def _sections(self) -> list[YamlSection]:
        sections = [
            self._head(),
            self._dataset(),
            self._model(),
            self._prompts(),
            self._sampling(),
            self._guide(),
            self._tokens(),
            self._generation(),
            self._downstream(),
            self._benchmark(),
        ]
        return [*sections, self._metrics()] if self.quick else sections

    def _head(self) -> YamlSection:
        file = one_line(shlex.quote(str(self.path)))
        comment = [
            f"Made by `{one_line(self.command)}`. Change what you like: every setting is in the reference.",
            f"  dct-augment doctor --config {file}           # what is missing; downloads nothing",
            f"  dct-augment run --config {file} --dry-run    # the plan and its cost",
            f"  dct-augment run --config {file}",
            "Paths begin in the folder that you run the command in.",
        ]
        return YamlSection("", comment, {"name": self.name})

    def _dataset(self) -> YamlSection:
        values, remarks = dict(self.photos.layout.dataset), {}
        if "val" in values:
            remarks["val"] = "No photo is held out for validation: there are few."
        if "duplicates" in values:
            remarks["duplicates"] = "Some photos are in two splits: copies leave train and val."
        words = words_of(self.photos.classes)
        if self.words_path is not None:
            values["words"] = str(self.words_path)
            remarks["words"] = "What prompts call each class; edit that file."
        elif words:
            values["words"] = words
            remarks["words"] = (
                "What prompts call each class. Better words give better images: `hexagon bolt`, not `m6 hex`."
            )
        return YamlSection("dataset", [f"Your photos: {self.photos.layout.title}."], values, remarks)

    def _model(self) -> YamlSection:
        model = self.model
        values: dict[str, Any] = {"path": model.path}
        if model.variant:
            values["variant"] = model.variant
        if model.dtype != "float32":
            values["dtype"] = model.dtype
        if self.quick and self.is_pocket:
            values["tiny_decoder"] = models.POCKET
        restriction = f" ({model.restriction})" if model.restriction else ""
        comment = [
            f"The text-to-image model: {model.family.title}{restriction}.",
            "For another one call `dct-augment init` with --model: it sets what suits it, here and below.",
        ]
        return YamlSection("model", comment, values)

    def _prompts(self) -> YamlSection:
        prompts = self._shipped.prompts
        values: dict[str, Any] = {"templates": list(prompts.templates)}
        if isinstance(prompts.contexts, tuple) and prompts.contexts != ("",) and self._is_world_of_pocket:
            values["contexts"] = list(prompts.contexts)
        comment = "How a class becomes a prompt. Say the kind if names do not: `..., a type of bolt`."
        return YamlSection("prompts", [comment], values)

    def _sampling(self) -> YamlSection:
        family = self.model.family
        values = {"num_inference_steps": family.steps, "guidance_scale": family.guidance_scale}
        return YamlSection("sampling", ["How an image is generated: more steps are slower, and may be better."], values)

    def _guide(self) -> YamlSection:
        comment = [
            "The classifier whose gradient trains the class tokens: made of your training photos alone.",
            "If you have a classifier that knows your classes, give its name instead.",
        ]
        return YamlSection("guide", comment, {"name": "few_shot", "backbone": self.backbone})

    @property
    def backbone(self) -> str:
        """The pretrained model that the guide is made on."""
        return _POCKET_BACKBONE if self.is_pocket else _BACKBONE

    @property
    def classifier(self) -> str:
        """The pretrained model that becomes the user's classifier."""
        return str(self._downstream().values["model"])

    def _tokens(self) -> YamlSection:
        values: dict[str, Any] = {"max_updates": 60 if self.is_pocket else 120, **_TOKENS}
        if self.quick:
            values |= _QUICK_TOKENS
        values["classes_per_batch"] = self.model.family.classes_per_batch
        comment = "A class token learns from the guide and from your photos of the class, from the class name on."
        remarks = {
            "max_updates": "Fewer are faster.",
            "photo_weight": "The pull of the photos, beside that of the guide; 0: none.",
            "target_accuracy": "Of its images, by the guide; training ends early there.",
        }
        return YamlSection("tokens", [comment], values, remarks)

    def _generation(self) -> YamlSection:
        values: dict[str, Any] = {"per_class": self.per_class, "allow_uncertified": True}
        if not self.is_pocket:
            values |= {"image_format": "jpg", "batch_size": self.model.family.batch_size}
        remarks = {"allow_uncertified": "Few images cannot prove that a token helps: without this, its class is plain."}
        comment = "Images of each class; a larger number adds some and changes none."
        return YamlSection("generation", [comment], values, remarks)

    @property
    def per_class(self) -> int:
        """Images of a class, in a run and in every draw of the benchmark."""
        return 50 if not self.quick and (self.is_pocket or self.machine.gpu_bytes is not None) else 20

    def _downstream(self) -> YamlSection:
        comment = "Your classifier: pretrained weights and a short training, the same in every arm."
        if self.is_pocket:
            values: dict[str, Any] = {"model": _POCKET_BACKBONE, "pretrained": True, "learning_rate": 2.0e-3}
            values |= {"steps": 200, "batch_size": 16} if self.quick else {"steps": 400}
        elif self.machine.gpu_bytes is not None:
            values = {"model": "resnet50.a1_in1k", "pretrained": True, "steps": 1000, "learning_rate": 3.0e-4}
        else:
            values = {"model": "mobilenetv3_small_100.lamb_in1k", "pretrained": True}
            values |= {"steps": 200, "learning_rate": 1.0e-3}
        values["synthetic_probability"] = dict(_POCKET_SHARES if self.is_pocket else _SHARES)
        trains_long = self.is_pocket or self.machine.gpu_bytes is not None
        values["synthetic_augmentation"] = "strong" if trains_long else "light"
        size = "Its pictures have the size that it was pretrained with; image_size sets another one."
        remarks = {
            "synthetic_probability": "The share of synthetic images in training, by photos of a class.",
            "synthetic_augmentation": "`strong` needs more steps than `light`.",
        }
        return YamlSection("downstream", [comment, size], values, remarks)

    def _benchmark(self) -> YamlSection:
        values: dict[str, Any] = {"protocol": "auto"}
        if self.photos.is_cross_validated:
            comment = "Photos are tested in folds: each by a classifier, guide and tokens that have not seen it."
            values |= {"folds": self.folds, "repeats": self.repeats}
        else:
            comment = "The test is read once, at the end."
            if not self.photos.has_test:
                comment += " It is held out of the photos: dataset.test, 0.2 of them if unset."
            values |= {"shots": self.shots, "seeds": 3 if self.quick else 5}
        values |= {"per_class": self.per_class, "arms": self.arms}
        remarks = {
            "folds": "At most as many as the smallest class has photos.",
            "repeats": "How often the photos are divided anew: more give narrower intervals.",
            "shots": "Training photos of each class, at most.",
            "arms": "Ways to train the classifier that are compared. With folds, class_token is but an upper line.",
        }
        return YamlSection("benchmark", [comment], values, remarks)

    def _metrics(self) -> YamlSection:
        comment = "FID and other metrics of the images are not measured; without this section they are."
        return YamlSection("metrics", [comment], {"features": None})

    @property
    def folds(self) -> int:
        """As many folds as the smallest class allows, up to 5."""
        return min(2 if self.quick else MOST_FOLDS, *self.photos.different.values())

    @property
    def repeats(self) -> int:
        """So many that there are 4 draws at least; one if it is to be quick."""
        return 1 if self.quick else -(-_FEWEST_DRAWS // self.folds)

    @property
    def arms(self) -> list[str]:
        """The arms to compare; the tokens of the run are those of every draw, if each draw has all photos."""
        if self.photos.is_cross_validated:
            return [*_ARMS, "class_token_few_shot_guide", "class_token"]
        all_photos = self.shots == max(self.photos.different.values())
        return [*_ARMS, "class_token" if all_photos else "class_token_few_shot_guide"]

    @property
    def shots(self) -> int:
        """Training photos of a class: all that there are, up to 20."""
        return min(_MOST_SHOTS, max(self.photos.different.values()))

    @property
    def is_pocket(self) -> bool:
        """Whether the text-to-image model is the shipped one."""
        return self.model.path == models.POCKET

    @property
    def _is_world_of_pocket(self) -> bool:
        names = {info.name for info in self.photos.classes}
        birds_names = {bird.name for bird in birds.BIRDS}
        return self.is_pocket and (names <= birds_names or names <= set(handwriting.NAMES))

    @cached_property
    def _shipped(self) -> Config:
        """The shipped configuration of the same model."""
        if not self.is_pocket:
            return configuration.load("folder")
        digits = {info.name for info in self.photos.classes} <= set(handwriting.NAMES)
        return configuration.load("digits" if digits else "pocket")

    def config(self, changes: Sequence[str] = ()) -> Config:
        """Return the configuration as a run takes it, with a known protocol, and with some changes."""
        data = configuration.by_class.parse_yaml(self.text)
        config = configuration.override(configuration.validate(data, str(self.path)), list(changes))
        benchmark = config.benchmark.model_copy(update={"protocol": self.photos.config.benchmark.protocol})
        return config.model_copy(update={"benchmark": benchmark})

    def write(self) -> None:
        """Write the file, and that of the words if there is one. The configuration is read back first.

        Raises:
            InputError: a file is there already, or cannot be written.
        """
        refuse_existing(self.path, self.words_path)
        try:
            with ExitStack() as stack:
                partial = stack.enter_context(files.atomic(self.path))
                partial.write_text(self.text, encoding="utf-8")
                configuration.load(str(partial.absolute()))
                if self.words_path is not None:
                    stack.enter_context(files.atomic(self.words_path)).write_text(self.words_text, encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{str(self.path)!r} cannot be written: {error.strerror or error}. Write it elsewhere: --to FILE.yaml"
            ) from error


def prepare(
    path: Path, photos: Photos, machine: Machine, requested: str | None, command: str, *, quick: bool = False
) -> FirstConfig:
    """Choose everything for some photos on a machine; nothing is written.

    Args:
        path: file to write.
        photos: what a look at them showed.
        machine: what there is.
        requested: text-to-image model that the user wants, if any.
        command: what the user called.
        quick: whether a first answer is enough, with fewer folds, updates and images.

    Raises:
        ModelError: the requested model is none.
    """
    sizes = photos.overview.sizes
    names = [info.name for info in photos.classes]
    model = models.choose(machine, names, max(sizes.median) if sizes else 0, requested)
    return FirstConfig(path, photos, machine, model, command, quick)


def words_of(classes: Sequence[ClassInfo]) -> dict[str, str]:
    """Return what prompts call each class, by the name that the data set has.

    Classes are left out whose names differ by case alone: a file of words cannot tell them apart.
    """
    names = [info.original_name or info.name for info in classes]
    folded = [unicodedata.normalize("NFC", name.strip().lower()) for name in names]
    counts = Counter(folded)
    return {
        name: info.name.strip()
        for name, key, info in zip(names, folded, classes, strict=True)
        if key and info.name.strip() and counts[key] == 1
    }
