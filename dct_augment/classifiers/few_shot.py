"""Makes a classifier of a few photos per class: heads on a pretrained backbone, measured on photos left out."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dct_augment import files
from dct_augment.classifiers import backbones
from dct_augment.classifiers.backbones import Backbone
from dct_augment.classifiers.classifier import Classifier
from dct_augment.classifiers.few_shot_heads import Heads, log_probabilities
from dct_augment.classifiers.few_shot_training import Fitting
from dct_augment.classifiers.few_shot_views import Views
from dct_augment.classifiers.out_of_fold import OutOfFold, stratified_folds, unmeasured
from dct_augment.classifiers.prediction import Prepared
from dct_augment.config import FewShotClassifierConfig, seed_from
from dct_augment.errors import ModelError
from dct_augment.images import content, to_tensor
from dct_augment.records import ClassInfo
from dct_augment.wording import in_one_line, reason_of

MOST_PIXELS = 224
"""The side of a backbone's input, at most, where the settings do not say: DINOv2's own are 518, which a CPU does not
bear."""
SCHEMA, SETTINGS, HEADS, BACKBONE = 1, "few_shot.json", "heads.safetensors", "backbone.safetensors"


class FewShotClassifier(Classifier):
    """Heads on a frozen backbone, made by `fit` from a few photos of each class.

    `settings` are those that it was made with, `out_of_fold` is what it says of photos that were left out.
    """

    def __init__(
        self,
        settings: FewShotClassifierConfig,
        classes: Sequence[ClassInfo],
        backbone: Backbone,
        heads: Heads,
        out_of_fold: OutOfFold,
        device: str = "cpu",
    ) -> None:
        self.settings, self.classes, self.out_of_fold = settings, tuple(classes), out_of_fold
        self.labels = tuple(info.name for info in classes)
        self._backbone, self._heads, self._device = backbone, heads, device
        self._places = {info.slug: place for place, info in enumerate(classes)}

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Compute log-probabilities (B, K), which are logits too: log of 1/H sum_h softmax(z_h / T) over the heads h.

        T is the temperature of `out_of_fold`. Gradients flow to the images.
        """
        return self.logits_of_prepared([self._backbone.preprocess(images.to(self._device))])

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Turn an RGB picture into the backbone's input (1, 3, h, w)."""
        return self._backbone.preprocess(to_tensor(image))

    def logits_of_prepared(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        """Compute logits (B, K) of the backbone's inputs, in one batch."""
        return self._log_probabilities(torch.cat(list(prepared)).to(self._device)).float()

    def _log_probabilities(self, inputs: torch.Tensor) -> torch.Tensor:
        return log_probabilities(self._heads(self._backbone.model(inputs)), self.out_of_fold.temperature)

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features of the backbone, (B, D) float32 on the CPU, without gradient."""
        return self._backbone(images.to(self._device)).float().cpu()

    def targets(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        """See `Classifier`. A class is found by its slug."""
        missing = [info.name for info in classes if info.slug not in self._places]
        if missing:
            raise ModelError(
                f"the few-shot guide was made of photos of other classes, without {missing[:10]}; make one of "
                "photos of all classes with dct_augment.classifiers.few_shot.fit"
            )
        return tuple(self._places[info.slug] for info in classes)

    def save(self, folder: Path, made_for: str = "") -> None:
        """Write heads, settings, classes and out-of-fold answers to a folder, in place of one that is there.

        The weights of the backbone are written too if they were fine-tuned; else its hash alone. `made_for` names
        whose photos they are, where there are several guides.
        """
        description = {
            "schema": SCHEMA,
            "settings": self.settings.model_dump(mode="json"),
            "classes": [asdict(info) for info in self.classes],
            "backbone_sha256": _hash(self._backbone) if not self.settings.fine_tune else None,
            "out_of_fold": self.out_of_fold.as_json(),
            **({"made_for": made_for} if made_for else {}),
        }
        with files.atomic_folder(folder, replace=True) as partial:
            save_file(_tensors(self._heads), partial / HEADS)
            if self.settings.fine_tune:
                save_file(_tensors(self._backbone.model), partial / BACKBONE)
            description["files"] = files.hashes(partial)
            files.write_json(partial / SETTINGS, description, indent=1)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "FewShotClassifier":
        """Read what `save` wrote. The backbone is loaded by its name.

        Raises:
            ModelError: files are missing or damaged, or the backbone is gone, or another one than it was.
        """
        try:
            description = files.load_json(folder / SETTINGS)
            if changed := files.changed(folder, description.get("files")):
                raise ValueError(f"{changed[0]} is not the file that was written")
            if description["schema"] != SCHEMA:
                raise ValueError(f"schema {description['schema']}, this version reads {SCHEMA}")
            settings = FewShotClassifierConfig.model_validate(description["settings"])
            classes = [ClassInfo(**info) for info in description["classes"]]
            out_of_fold = OutOfFold.from_json(description["out_of_fold"])
            tensors = load_file(folder / HEADS)
            heads = Heads(settings.head, len(tensors["mean"]), len(classes), range(settings.heads))
            heads.load_state_dict(tensors)
            tuned = load_file(folder / BACKBONE) if settings.fine_tune else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else in_one_line(reason_of(error), 200)
            raise ModelError(f"few-shot guide {str(folder)!r} cannot be read: {reason}; {_again(folder)}") from error
        backbone = load_backbone(settings, device)
        if tuned is not None:
            backbone.model.load_state_dict(tuned)
        elif _hash(backbone) != description["backbone_sha256"]:
            raise ModelError(
                f"few-shot guide {str(folder)!r} was made on other weights of {settings.backbone!r} than are there now;"
                f" {_again(folder)}, or give the old weights as guide.revision"
            )
        return cls(settings, classes, backbone, heads.to(device).requires_grad_(False), out_of_fold, device)


def fit(
    settings: FewShotClassifierConfig,
    images: Sequence[Image.Image],
    labels: Sequence[int],
    classes: Sequence[ClassInfo],
    *,
    seed: int = 0,
    device: str = "cpu",
) -> FewShotClassifier:
    """Make a classifier of a few photos of each class, and measure it on photos left out.

    The photos are divided into folds, each class evenly (`out_of_fold.stratified_folds`). For each fold a classifier is
    made of the other folds and answers the photos of this one. These answers give accuracy, temperature, and the
    classes for which it is no better than chance (`out_of_fold.refused`; it is for the caller to stop). They also say
    whether mirrored views help, unless `settings.flips` does: the accuracy is that of the better of the two, so it is
    a little optimistic. The classifier that is returned is made of all photos.

    Args:
        settings: backbone, heads, views, folds.
        images: the photos, RGB. Each is opened a few times, so a sequence that reads them from disk will do.
        labels: the class of each photo, as `ClassInfo.index` of `classes`.
        classes: what the outputs mean, in order.
        seed: together with `settings.seed` it decides heads, views and folds.
        device: torch device.

    Returns:
        The frozen classifier. On a CPU with one thread, the same photos and seed give the same bits.

    Raises:
        ModelError: the backbone cannot be had, there is one class only, a class has no photo, or a photo no class.

    Examples:
        >>> import dct_augment
        >>> from dct_augment.classifiers import few_shot
        >>> from dct_augment.config import FewShotClassifierConfig
        >>> birds = dct_augment.load_dataset("pocket")
        >>> photos = dct_augment.few_shot(birds, shots=5, seed=0).train
        >>> settings = FewShotClassifierConfig(backbone="pocket/backbone", augmentations=2)
        >>> guide = few_shot.fit(settings, [photo.open() for photo in photos], [p.label for p in photos], birds.classes)
        >>> guide.out_of_fold.accuracy.count
        80
    """
    places = _places(images, labels, classes)
    seed = seed_from("few-shot", settings.seed, seed)
    backbone = load_backbone(settings, device)
    folds = stratified_folds(places, [content(image) for image in images], settings.folds, seed)
    chosen = _fitted(settings, backbone, images, places, [info.name for info in classes], folds, seed, device)
    trained = chosen.fitting.trained_on(range(len(places)))
    return FewShotClassifier(settings, classes, trained.backbone, trained.heads, chosen.out_of_fold, device)


@dataclass(frozen=True)
class _Fitted:
    fitting: Fitting
    out_of_fold: OutOfFold


def _fitted(
    settings: FewShotClassifierConfig,
    backbone: Backbone,
    images: Sequence[Image.Image],
    places: Sequence[int],
    names: Sequence[str],
    folds: Sequence[Sequence[int]],
    seed: int,
    device: str,
) -> _Fitted:
    """Measure with and without mirrored views if the settings leave it open, and take what answers better.

    Mirrored views help with birds and hurt with writing. The better one is that of the smaller mean of -log p of the
    right class. Where nothing can be measured, nothing is mirrored.
    """
    options = (False, True) if settings.flips is None and folds else (bool(settings.flips),)
    fitted: list[_Fitted] = []
    for flips in options:
        views = Views(images, backbone.preprocess, count=settings.augmentations, flips=flips, seed=seed)
        unmirrored = fitted[0].fitting if fitted else None
        fitting = Fitting(settings, backbone, views, places, names, seed, device, unmirrored)
        fitted.append(
            _Fitted(fitting, fitting.measured(folds, len(options)) if folds else unmeasured(names, flips=flips))
        )
    return min(fitted, key=lambda one: one.out_of_fold.loss or 0.0)


def _places(images: Sequence[Any], labels: Sequence[int], classes: Sequence[ClassInfo]) -> list[int]:
    """Find the place of each photo's class in `classes`.

    Raises:
        ModelError: they do not fit together.
    """
    if len(images) != len(labels):
        raise ModelError(
            f"a few-shot guide needs a label for each photo, got {len(images)} photos, {len(labels)} labels"
        )
    if len(classes) < 2:
        named = f"{classes[0].name!r} alone" if classes else "none"
        raise ModelError(f"a few-shot guide tells classes apart, so it needs two or more, got {named}; add another one")
    place_of = {info.index: place for place, info in enumerate(classes)}
    unknown = sorted({label for label in labels if label not in place_of})
    if unknown:
        raise ModelError(f"a few-shot guide got photos of labels {unknown[:10]}, which none of its classes has")
    places = [place_of[label] for label in labels]
    present = set(places)
    without = [info.name for place, info in enumerate(classes) if place not in present]
    if without:
        raise ModelError(
            f"a few-shot guide needs a photo of each class, and {len(without)} have none: {without[:10]}; add photos, "
            "or leave the classes out with dataset.classes"
        )
    return places


def _again(folder: Path) -> str:
    """Say how a guide is made again."""
    return f"delete the folder {str(folder)!r}, and the same command makes the guide again"


def load_backbone(settings: FewShotClassifierConfig, device: str) -> Backbone:
    """Load the backbone that a classifier of photos is made on.

    Raises:
        ModelError: it cannot be had.
    """
    return backbones.load(
        settings.backbone,
        setting="the backbone of a few-shot guide",
        instead="pocket/backbone, which is shipped, or ",
        revision=settings.revision,
        image_size=settings.image_size,
        most=MOST_PIXELS,
        device=device,
    )


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def _hash(backbone: Backbone) -> str:
    """Hash the weights of a backbone with SHA-256."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
