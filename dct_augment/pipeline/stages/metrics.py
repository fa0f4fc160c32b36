"""The stage of image metrics: every kind of generated image against real ones."""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from dct_augment import config as configuration
from dct_augment import files
from dct_augment.benchmark.arms import SYNTHETIC, arm_folder
from dct_augment.classifiers import Classifier, features
from dct_augment.downstream.mixing import SyntheticImages
from dct_augment.errors import ModelError
from dct_augment.generation.shards import ShardFolder, shard_folder
from dct_augment.images import UNREADABLE_IMAGE, square
from dct_augment.intervals import proportion
from dct_augment.metrics.evaluation import Metric, evaluate
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.records import Example, Progress, ProgressCallback, WorkUnit, ignore_progress

_BATCH = 64
_REAL = "real"  # the test images, measured as if they were generated: what can be reached

Labelled = Iterable[tuple[Image.Image, int]]


class MetricStage(Stage):
    """Metrics of generated images; a unit is a kind of images: an arm, or the real test images themselves.

    Arms with images of their own for every draw are measured on the first draw.
    """

    name = title = "metrics"

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        settings = context.config.benchmark
        arms = [arm for arm in settings.arms if arm in SYNTHETIC and arm != "class_token_filtered"]
        self._kinds = [_REAL, *arms] if arms and context.config.metrics.features else []

    def pending(self) -> tuple[WorkUnit, ...]:
        """The kinds that are not measured with today's settings and images."""
        todo = [(number, kind) for number, kind in enumerate(self._kinds) if self._known(kind) is None]
        if todo:
            try:
                _ = self._features
            except ModelError as error:
                if self._config.metrics.features != "auto":
                    raise
                self._context.progress(Progress(self.title, 0, 0, f"left out: {error}"))
                return ()
        return tuple(WorkUnit("metrics", number, kind, 1) for number, kind in todo)

    def do(self, unit: WorkUnit, on_progress: ProgressCallback = ignore_progress) -> None:
        """Measure one kind of images."""
        kind, settings = self._kinds[unit.number], self._config.metrics
        looked = self._look(self._images(kind))
        found = evaluate(
            self._reference,
            looked.features,
            looked.labels,
            k=settings.nearest_neighbours,
            resamples=settings.bootstrap_resamples,
            seed=settings.seed,
        )
        for name, right in looked.right.items():
            found[name] = Metric(proportion(sum(right), len(right)))
        rows = [self._row(kind, name, one, len(looked.labels)) for name, one in found.items()]
        files.write_text(self._file(kind), json.dumps({"identity": self._identity(kind), "rows": rows}) + "\n")
        on_progress(Progress(self.title, 1, 1, kind))

    def publish(self) -> None:
        """Write `benchmark/metrics.parquet`: a row per kind and metric."""
        rows = [row for kind in self._kinds for row in self._known(kind) or ()]
        if rows:
            with files.atomic(self._folder / "metrics.parquet") as partial:
                pd.DataFrame(rows).to_parquet(partial, index=False)

    def _row(self, kind: str, metric: str, one: Metric, count: int) -> dict[str, Any]:
        value = one.estimate
        return {
            "kind": kind,
            "metric": metric,
            "value": value.mean,
            "low": value.low,
            "high": value.high,
            "n_real": len(self._reference),
            "n_synthetic": count,
            "features": self._features[0],
            "warning": one.warning,
        }

    @cached_property
    def _features(self) -> tuple[str, Callable[[torch.Tensor], torch.Tensor]]:
        """Name and extractor of the features.

        Raises:
            ModelError: they cannot be had.
        """
        name, context = str(self._config.metrics.features), self._context
        if name == "judge" and context.judge is None:
            raise ModelError("metrics.features is judge, but the configuration has none; use guide, or a timm name")
        known: dict[str, Classifier | None] = {"judge": context.judge, "guide": context.guide}
        if name == "auto":
            name = "judge" if context.judge is not None else "guide"
        classifier = known.get(name)
        if classifier is None:
            return name, features.load(name, context.device, self._config.metrics.inception_weights)
        members = self._config.judge if name == "judge" else self._config.guide
        classifier.features(torch.zeros(1, 3, 64, 64))
        return f"{name} ({' + '.join(one.name for one in members or ())})", classifier.features

    @cached_property
    def _reference(self) -> torch.Tensor:
        """Features (N, D) of the real training and validation images."""
        dataset, most = self._context.real_images(), self._config.metrics.real_images
        examples = [one for split in ("train", "val") for one in dataset.examples(split)]
        order = np.random.default_rng(self._config.metrics.seed).permutation(len(examples))[:most]
        return self._look(_opened(examples[index] for index in sorted(order))).features

    def _images(self, kind: str) -> Labelled:
        if kind == _REAL:
            examples = self._context.real_images().examples("test")[: self._config.metrics.real_images]
            return _opened(examples)
        known = {info.index for info in self._context.classes}
        images = SyntheticImages(self._shards(kind).path, per_class=self._config.metrics.per_class)
        return (images[index] for index, label in enumerate(images.labels) if label in known)

    def _shards(self, kind: str) -> ShardFolder:
        """The shard folder of an arm."""
        settings = self._config.benchmark
        root = arm_folder(self._context.arm_folders, kind, settings.shots, settings.seed)
        return shard_folder(root, self._config.name, SYNTHETIC[kind])

    def _look(self, images: Labelled) -> "_Looked":
        looked = _Looked()
        for batch in _batches(images):
            pictures = torch.cat([square(picture, self._side) for picture, _ in batch])
            labels = [label for _, label in batch]
            right: dict[str, list[bool]] = {}
            for who, classifier in (("guide", self._context.guide), ("judge", self._context.judge)):
                if classifier is not None:
                    right |= _recognised(who, classifier, self._targets(classifier, labels), pictures)
            looked.add(self._features[1](pictures), labels, right)
        return looked

    def _targets(self, classifier: Classifier, labels: list[int]) -> list[int]:
        classes = self._context.whole.classes
        known = dict(zip((info.index for info in classes), classifier.targets(classes), strict=True))
        return [known[label] for label in labels]

    @cached_property
    def _side(self) -> int:
        """Pixels of the square that every image is brought to: those of a generated image."""
        first = next(kind for kind in self._kinds if kind != _REAL)
        return int(SyntheticImages(self._shards(first).path, per_class=1)[0][0].width)

    def _known(self, kind: str) -> list[dict[str, Any]] | None:
        path = self._file(kind)
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return list(found["rows"]) if found.get("identity") == self._identity(kind) else None

    def _identity(self, kind: str) -> str:
        tars: list[str] = []
        if kind != _REAL:
            shards, per_class = self._shards(kind), self._config.metrics.per_class
            tars = [shards.digest(spec) for spec in shards.layout() if spec.first_number < per_class]
        return configuration.fingerprint(self._config.identity("metrics"), kind, tars)

    def _file(self, kind: str) -> Path:
        return self._folder / "metrics" / f"{kind}.json"

    @property
    def _folder(self) -> Path:
        return self._config.root / "benchmark"


class _Looked:
    """What was seen in some images: features (N, D), labels (N,), and who recognised which."""

    def __init__(self) -> None:
        self._features: list[torch.Tensor] = []
        self._labels: list[int] = []
        self.right: dict[str, list[bool]] = {}

    def add(self, found: torch.Tensor, labels: list[int], right: dict[str, list[bool]]) -> None:
        self._features.append(found)
        self._labels += labels
        for name, values in right.items():
            self.right.setdefault(name, []).extend(values)

    @property
    def features(self) -> torch.Tensor:
        return torch.cat(self._features)

    @property
    def labels(self) -> torch.Tensor:
        return torch.tensor(self._labels)


@torch.no_grad()
def _recognised(who: str, classifier: Classifier, targets: list[int], pictures: torch.Tensor) -> dict[str, list[bool]]:
    """Which pictures (B, 3, H, W) it recognises: `<who>_top1`, and of more than five labels `<who>_top5`."""
    most = 5 if len(classifier.labels) > 5 else 1
    right = classifier.logits(pictures).topk(most, 1).indices.cpu() == torch.tensor(targets)[:, None]
    return {f"{who}_top{k}": right[:, :k].any(1).tolist() for k in sorted({1, most})}


def _opened(examples: Iterable[Example]) -> Labelled:
    """Pictures with their labels, without those that cannot be read."""
    for one in examples:
        try:
            picture = one.open().convert("RGB")
        except UNREADABLE_IMAGE:
            continue
        yield picture, one.label


def _batches(images: Labelled) -> Iterator[list[tuple[Image.Image, int]]]:
    rest = iter(images)
    while batch := list(islice(rest, _BATCH)):
        yield batch
