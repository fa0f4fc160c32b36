"""Makes what the commands work on: data sets and models in their published layouts, and finished runs. From seeds.

    python -m benchmarks.rehearse.trees STEP FOLDER SIZE

Nothing is downloaded. Pictures are made up: a class is a colour, and each picture has spots of its own, so that no two
are duplicates. A guide is a random network whose last layer compares with a picture of each class.

torch is imported by those steps alone that need it.
"""

import importlib.util
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.rehearse.sizes import SIZES, Size
from dct_augment import config, files
from dct_augment.config import Config
from dct_augment.records import GeneratedImage, PlanRow, Trial

if TYPE_CHECKING:
    from dct_augment import Run

_KINDS = ("gull", "tern", "wren", "crow", "duck", "hawk", "swift", "finch", "owl", "grebe")
_WORDS = (
    *("red", "blue", "green", "black", "white", "grey", "brown", "golden", "crested", "spotted", "masked", "hooded"),
    *("great", "least", "common", "northern", "southern", "eastern", "western", "ringed"),
)
_TRAINED_ON = 30
"""Training pictures of a class of CUB; the last six classes have one less."""
_TEXTURES = 16
_SHOWN = 8
"""Images of a class that a report shows; of a run of very many images, only these are more than a few pixels."""


class Painter:
    """Paints pictures of one size: the colour of a class, spots that no other picture has, and grain like a photo's."""

    def __init__(self, size: tuple[int, int], classes: int, grain: int = 12) -> None:
        self._size, self._rng = size, np.random.default_rng(0)
        self._steps = max(2, int(np.ceil(classes ** (1 / 3))))
        width, height = size
        self._grains = [self._rng.integers(0, 2 * grain + 1, (height, width), np.uint8) for _ in range(_TEXTURES)]

    def picture(self, number: int) -> Image.Image:
        """Paint one more picture of the class of this number."""
        spots = Image.fromarray(self._rng.integers(0, 52, (6, 8), np.uint8))
        bright = np.asarray(spots.resize(self._size, Image.Resampling.BICUBIC))
        bright = bright + self._grains[self._rng.integers(_TEXTURES)]
        levels, grey = np.arange(256) - int(bright.mean()), Image.fromarray(bright)
        return Image.merge("RGB", [grey.point((levels + part).clip(0, 255).tolist()) for part in self._colour(number)])

    def _colour(self, number: int) -> list[int]:
        places = [number // self._steps**power % self._steps for power in range(3)]
        return [50 + 155 * place // (self._steps - 1) for place in places]


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def cub_names(size: Size) -> list[str]:
    """Name the classes of CUB as its folders do: `001.Red_Gull`."""
    names = [f"{word}_{kind}".title() for word in _WORDS for kind in _KINDS][: size.cub_classes]
    return [f"{number:03d}.{name}" for number, name in enumerate(names, 1)]


def cub_pictures(folder: Path, size: Size) -> None:
    """Write the tree of CUB-200-2011: its pictures and text files."""
    root, painter = folder / "CUB_200_2011", Painter(size.cub_side, size.cub_classes)
    rows: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": [], "bounding_boxes": []}
    names, image = cub_names(size), 0
    for number, name in enumerate(names):
        count = size.cub_pictures * (number + 1) // len(names) - size.cub_pictures * number // len(names)
        trained_on = _TRAINED_ON - (number >= len(names) - 6)
        (root / "images" / name).mkdir(parents=True)
        for place in range(count):
            image += 1
            path = f"{name}/{name.partition('.')[2]}_{place + 1:04d}_{image}.jpg"
            (root / "images" / path).write_bytes(_jpeg(painter.picture(number)))
            rows["images"].append(f"{image} {path}")
            rows["image_class_labels"].append(f"{image} {number + 1}")
            rows["train_test_split"].append(f"{image} {int(place < trained_on)}")
            rows["bounding_boxes"].append(f"{image} 10.0 10.0 300.0 250.0")
    rows["classes"] = [f"{number} {name}" for number, name in enumerate(names, 1)]
    for file, lines in rows.items():
        files.write_text(root / f"{file}.txt", "\n".join(lines) + "\n")


def cub_models(folder: Path, size: Size) -> None:
    """Write the text-to-image model, both guides, and the configurations that name them."""
    import torch

    from benchmarks.gpu import models

    words = {word.lower() for name in cub_names(size) for word in name.partition(".")[2].split("_")}
    shapes = models.TINY_SHAPES if size.name == "tiny" else models.SHAPES
    models.build(shapes["sd15"], sorted(words), "cpu", torch.float32).save_pretrained(folder / "text-to-image")
    for name, model in (("guide", size.guide), ("small-guide", "test_vit")):
        _write_guide(folder / name, model, size)
    files.write_text(folder / "cub.yaml", config.dump(_cub(folder, "guide", "cub")))
    of_finished = (
        f"generation.per_class={size.cub_generated}",
        f"benchmark.per_class={size.cub_generated}",
        "benchmark.arms=[class_token]",
        "benchmark.seeds=2",
        "benchmark.processes=2",
        f"downstream.model={size.small}",
        "downstream.steps=2",
        "downstream.validation_rounds=1",
        f"metrics.per_class={size.cub_generated}",
        "metrics.real_images=2000",
    )
    files.write_text(
        folder / "cub-finished.yaml", config.dump(_cub(folder, "small-guide", "cub-finished", *of_finished))
    )


def _cub(folder: Path, guide: str, run: str, *settings: str) -> Config:
    """Give the shipped configuration of CUB with the models and pictures of a folder, and a run in it."""
    own = (
        f"dataset.path={folder / 'CUB_200_2011'}",
        f"model.path={folder / 'text-to-image'}",
        "model.variant=null",
        "model.dtype=float32",
        f"guide={{name: 'local-dir:{folder / guide}', match: index}}",
        "downstream.model=resnet50",
        "downstream.pretrained=false",
    )
    return config.load("cub", [*own, *settings], output=folder / "runs" / run)


def _write_guide(folder: Path, name: str, size: Size) -> None:
    """Write a classifier that compares the features of a random network with those of a picture of each class."""
    import timm
    import torch

    from dct_augment.classifiers import SingleClassifier, timm_models
    from dct_augment.images import to_tensor

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=size.cub_classes)
    labels = [f"label {number}" for number in range(size.cub_classes)]
    classifier = SingleClassifier(model, timm_models.preprocess(model), labels, match="index")
    painter = Painter(size.cub_side, size.cub_classes)
    pictures = (to_tensor(painter.picture(number)) for number in range(size.cub_classes))
    features = torch.cat([classifier.features(picture) for picture in pictures])
    mean = features.mean(0)
    apart = features - mean
    scale = 50 / apart.square().sum(1).mean()  # so that probabilities are clear
    head = model.get_classifier()
    head.weight.copy_(scale * apart)
    head.bias.copy_(-scale * (apart @ mean + apart.square().sum(1) / 2))
    timm.models.save_for_hf(model, str(folder), safe_serialization=True, model_config={"num_classes": len(labels)})


def cub_run(folder: Path, size: Size) -> None:
    """Write tokens and images of all classes of CUB, as their stages do."""
    from benchmarks import finished_run
    from dct_augment import Run

    run = Run(config.load(str(folder / "cub-finished.yaml")))
    painter = Painter((size.generated_side,) * 2, size.cub_classes)
    finished_run.write_tokens(run)
    finished_run.write_shards(run, lambda row: _generated(row, painter.picture(row.class_index)))


def _generated(row: PlanRow, picture: Image.Image) -> GeneratedImage:
    return GeneratedImage(row, picture, guide_label=row.class_name, guide_right=True, guide_confidence=0.9)


def imagenet_pictures(folder: Path, size: Size) -> None:
    """Write the tree of ImageNet, and its configuration."""
    painter = Painter((64, 48), size.imagenet_classes)
    for number, name in enumerate(_imagenet_ids()[: size.imagenet_classes]):
        for split, count in (("train", size.imagenet_train), ("val", size.imagenet_val)):
            place = folder / "imagenet" / split / name
            place.mkdir(parents=True)
            for picture in range(count):
                (place / f"{name}_{picture}.JPEG").write_bytes(_jpeg(painter.picture(number)))
    own = (
        f"dataset.path={folder / 'imagenet'}",
        "model={path: pocket}",
        "judge=null",
        f"generation.per_class={size.imagenet_generated}",
        "generation.shard_size=1000",
        "generation.image_format=png",
        "benchmark.arms=[real, real+strong_aug, class_token]",
        "benchmark.seeds=2",
        f"benchmark.per_class={min(100, size.imagenet_generated)}",
        "downstream.model=resnet50",
        "downstream.pretrained=false",
        "metrics.features=null",
    )
    settings = config.load("imagenet", own, output=folder / "runs" / "imagenet")
    files.write_text(folder / "imagenet.yaml", config.dump(settings))


def _imagenet_ids() -> list[str]:
    """Read the WordNet ids of ImageNet-1k from the list that timm carries; timm itself is not imported."""
    spec = importlib.util.find_spec("timm")
    (folder,) = spec.submodule_search_locations  # type: ignore[union-attr, misc]
    return (Path(folder) / "data" / "_info" / "imagenet_synsets.txt").read_text(encoding="utf-8").split()


def imagenet_run(folder: Path, size: Size) -> None:
    """Write tokens, images and trials of all classes of ImageNet."""
    from benchmarks import finished_run
    from dct_augment import Run

    run = Run(config.load(str(folder / "imagenet.yaml")))
    painter = Painter((64, 64), size.imagenet_classes)
    numbers = iter(range(size.imagenet_classes * size.imagenet_generated))

    def generate(row: PlanRow) -> GeneratedImage:
        number = next(numbers)
        if row.number < _SHOWN:
            return _generated(row, painter.picture(row.class_index))
        return _generated(row, Image.frombytes("RGB", (2, 2), number.to_bytes(12, "big")))

    finished_run.write_tokens(run)
    finished_run.write_shards(run, generate)
    write_trials(run)


def write_trials(run: "Run") -> None:
    """Record the planned trials of a run with made-up answers: a third is right, and in later arms more."""
    from dct_augment.pipeline.stages import TrialStage

    test = run.real_images().examples("test")  # the look comes first: it is a part of what made a trial
    stage, rng = TrialStage(run), np.random.default_rng(0)
    truth = np.array([example.label for example in test])
    for plan in stage.missing:
        share = 0.3 + 0.1 * run.config.benchmark.arms.index(plan.arm)
        guessed = rng.choice([info.index for info in run.classes], len(truth))
        predicted = np.where(rng.random(len(truth)) < share, truth, guessed)
        accuracy = float((truth == predicted).mean())
        answers = tuple(truth.tolist()), tuple(predicted.tolist())
        trial = Trial(plan.arm, plan.shots, plan.seed, plan.per_class, 1, accuracy, accuracy, 1.0, *answers)
        stage._records.write(plan, trial)
    stage.publish()


STEPS: dict[str, Callable[[Path, Size], None]] = {
    "cub-pictures": cub_pictures,
    "cub-models": cub_models,
    "cub-run": cub_run,
    "imagenet-pictures": imagenet_pictures,
    "imagenet-run": imagenet_run,
}


if __name__ == "__main__":
    step, into, named = sys.argv[1:]
    STEPS[step](Path(into), SIZES[named])
