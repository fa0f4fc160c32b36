"""The stage of image metrics: every kind of generated image against real ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image

from dct_augment import config as configuration
from dct_augment import files, tables
from dct_augment.benchmark.arms import ARMS, REAL, arm_folder, measured_kinds
from dct_augment.classifiers import Classifier, features
from dct_augment.config import classifier_title
from dct_augment.downstream.mixing import SyntheticImages
from dct_augment.errors import ModelError, UnreadableImageError
from dct_augment.generation.shards import ShardFolder, shard_folder
from dct_augment.images import square
from dct_augment.intervals import proportion
from dct_augment.metrics.choosing import at_random, evenly_by_class
from dct_augment.metrics.evaluation import Metric, evaluate
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.records import Example, Progress, ProgressCallback, StageName, WorkUnit
from dct_augment.wording import counted

_BATCH = 64

Labelled = Iterable[tuple[Image.Image, int]]


class MetricStage(Stage):
    """Metrics of generated images; a unit is a kind of images: an arm, or the real test images themselves.

    Arms with images of their own for every draw are measured on the first draw.
    """

    name = StageName.METRICS
    reads_images = True

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        kinds = measured_kinds(context.config.benchmark)
        self._kinds = kinds if context.config.metrics.features else ()
        self._real_features: torch.Tensor | None = None

    def pending(self) -> tuple[WorkUnit, ...]:
        """Plan the kinds that are not measured with today's settings and images."""
        units = []
        for number, kind in enumerate(self._kinds):
            if self._recorded_rows(kind) is None:
                # The size of a unit is what `evaluate` tells of.
                units.append(WorkUnit(self.name, number, kind, 2 * self._config.metrics.bootstrap_resamples))
                if self._file(kind).is_file() and not files.read_json(self._file(kind)):
                    note = f"{self._file(kind)} is damaged; it is measured again"
                    self._context.progress(Progress(self.name, 0, 0, note))
        if units:
            try:
                _ = self._features
            except ModelError as error:
                if self._config.metrics.features != "auto":
                    raise
                self._context.progress(Progress(self.name, 0, 0, f"left out: {error}"))
                return ()
        return tuple(units)

    def _do(self, unit: WorkUnit, on_progress: ProgressCallback) -> None:
        """Measure one kind of images."""
        kind, settings = self._kinds[unit.number], self._config.metrics
        on_progress = _of_kind(kind, on_progress)
        reference = self._reference(on_progress, unit.size)
        measured = self._measure(self._images(kind), "image", on_progress, unit.size)
        metrics = evaluate(
            reference,
            measured.features,
            measured.labels,
            k=settings.nearest_neighbours,
            resamples=settings.bootstrap_resamples,
            seed=settings.seed,
            device=self._context.device,
            on_progress=on_progress,
        )
        for name, right in measured.recognised.items():
            metrics[name] = Metric(proportion(sum(right), len(right)))
        counts = {"n_real": len(reference), "n_synthetic": len(measured.labels)}
        rows = [self._row(kind, name, metric, counts) for name, metric in metrics.items()]
        files.write_json(self._file(kind), {"identity": self._identity(kind), "rows": rows})
        on_progress(Progress(self.name, unit.size, unit.size, "measured"))

    def publish(self) -> None:
        """Write `benchmark/metrics.parquet`: a row per kind and metric."""
        rows = [row for kind in self._kinds for row in self._recorded_rows(kind) or ()]
        if rows:
            tables.write(self._folder / "metrics.parquet", pd.DataFrame(rows))

    def _row(self, kind: str, name: str, metric: Metric, counts: Mapping[str, int]) -> dict[str, Any]:
        estimate = metric.estimate
        return {
            "kind": kind,
            "metric": name,
            "value": estimate.mean,
            "low": estimate.low,
            "high": estimate.high,
            **counts,
            "features": self._features[0],
            "warning": metric.warning,
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
        classifiers: dict[str, Classifier | None] = {"judge": context.judge, "guide": context.guide}
        if name == "auto":
            name = "judge" if context.judge is not None else "guide"
        classifier = classifiers.get(name)
        if classifier is None:
            return name, features.load(name, context.device, self._config.metrics.inception_weights)
        members = self._config.judge if name == "judge" else self._config.guide
        classifier.features(torch.zeros(1, 3, 64, 64))
        return f"{name} ({' + '.join(map(classifier_title, members or ()))})", classifier.features

    def _reference(self, on_progress: ProgressCallback, size: int) -> torch.Tensor:
        """Take the features (N, D) of the real training and validation images, once; `size` is that of the unit."""
        if self._real_features is not None:
            return self._real_features
        dataset = self._context.real_images()
        train, val = dataset.examples("train"), dataset.examples("val")
        rows = self._chosen(len(train) + len(val))  # the examples of these alone are made
        examples = (train[row] if row < len(train) else val[row - len(train)] for row in rows)
        self._real_features = self._measure(_opened(examples), "real image", on_progress, size).features
        return self._real_features

    def _images(self, kind: str) -> Labelled:
        settings = self._config.metrics
        if kind == REAL:
            test = self._context.real_images().examples("test")
            return _opened(test[row] for row in self._chosen(len(test)))
        labels = {info.index: info.index for info in self._context.classes}  # images of other classes are left out
        images = SyntheticImages(self._shards(kind).path, per_class=settings.per_class, labels=labels)
        return (images[index] for index in evenly_by_class(images.labels, settings.synthetic_images, settings.seed))

    def _chosen(self, images: int) -> list[int]:
        """Choose which of so many real images are measured."""
        return at_random(images, self._config.metrics.real_images, self._config.metrics.seed)

    def _shards(self, kind: str) -> ShardFolder:
        """The shard folder of an arm."""
        settings = self._config.benchmark
        root = arm_folder(self._context.arm_paths.images, kind, settings.shot_count, settings.draws[0])
        image_kind = ARMS[kind].images
        assert image_kind is not None
        return shard_folder(root, self._config.name, image_kind)

    def _measure(self, images: Labelled, noun: str, on_progress: ProgressCallback, size: int) -> "_Measured":
        """Take the features of images, and let guide and judge classify them; say how many are done."""
        measured = _Measured()
        for batch in _batches(images):
            pictures = torch.cat([square(picture, self._side) for picture, _ in batch])
            labels = [label for _, label in batch]
            recognised: dict[str, list[bool]] = {}
            for role, classifier in (("guide", self._context.guide), ("judge", self._context.judge)):
                if classifier is not None:
                    recognised |= _recognised(role, classifier, self._targets(classifier, labels), pictures)
            measured.add(self._features[1](pictures), labels, recognised)
            on_progress(Progress(self.name, 0, size, f"{counted(measured.count, noun)} embedded"))
        return measured

    def _targets(self, classifier: Classifier, labels: list[int]) -> list[int]:
        classes = self._context.guided_classes
        targets = dict(zip((info.index for info in classes), classifier.targets(classes), strict=True))
        return [targets[label] for label in labels]

    @cached_property
    def _side(self) -> int:
        """Pixels of the square that every image is brought to: those of a generated image."""
        first = next(kind for kind in self._kinds if kind != REAL)
        return int(SyntheticImages(self._shards(first).path, per_class=1)[0][0].width)

    def _recorded_rows(self, kind: str) -> list[dict[str, Any]] | None:
        """Read the metrics of a kind; None unless they were measured with today's settings and images."""
        record = files.read_json(self._file(kind))
        if record.get("identity") != self._identity(kind):
            return None
        rows = record.get("rows")
        return rows if isinstance(rows, list) and rows and all(map(_is_row, rows)) else None

    def _identity(self, kind: str) -> str:
        tars: list[str] = []
        if kind != REAL:
            shards, per_class = self._shards(kind), self._config.metrics.per_class
            tars = [shards.digest(spec) for spec in shards.layout() if spec.first_number < per_class]
        return configuration.fingerprint(self._context.identity("metrics"), kind, tars)

    def _file(self, kind: str) -> Path:
        return self._folder / "metrics" / f"{kind}.json"

    @property
    def _folder(self) -> Path:
        return self._config.root / "benchmark"


class _Measured:
    """What was measured of some images: features (N, D), labels (N,), and which ones guide and judge recognise."""

    def __init__(self) -> None:
        self._features: list[torch.Tensor] = []
        self._labels: list[int] = []
        self.recognised: dict[str, list[bool]] = {}

    def add(self, features: torch.Tensor, labels: list[int], recognised: dict[str, list[bool]]) -> None:
        self._features.append(features)
        self._labels += labels
        for name, values in recognised.items():
            self.recognised.setdefault(name, []).extend(values)

    @property
    def features(self) -> torch.Tensor:
        return torch.cat(self._features)

    @property
    def labels(self) -> torch.Tensor:
        return torch.tensor(self._labels)

    @property
    def count(self) -> int:
        return len(self._labels)


def _is_row(value: Any) -> bool:
    """Tell whether a value of a JSON file is a metric with its interval."""
    row = value if isinstance(value, dict) else {}
    is_named = isinstance(row.get("kind"), str) and isinstance(row.get("metric"), str)
    return is_named and all(isinstance(row.get(name), int | float) for name in ("value", "low", "high"))


def _of_kind(kind: str, on_progress: ProgressCallback) -> ProgressCallback:
    """Make a callback whose notes begin with the kind of images."""

    def pass_on(progress: Progress) -> None:
        on_progress(Progress(progress.stage, progress.done, progress.total, f"{kind}: {progress.note}"))

    return pass_on


@torch.no_grad()
def _recognised(role: str, classifier: Classifier, targets: list[int], pictures: torch.Tensor) -> dict[str, list[bool]]:
    """Find which images (B, 3, H, W) it recognises: `<role>_top1`, and of more than five labels `<role>_top5`."""
    most = 5 if len(classifier.labels) > 5 else 1
    right = classifier.logits(pictures).topk(most, 1).indices.cpu() == torch.tensor(targets)[:, None]
    return {f"{role}_top{k}": right[:, :k].any(1).tolist() for k in sorted({1, most})}


def _opened(examples: Iterable[Example]) -> Labelled:
    """Open images with their labels, without those that cannot be read."""
    for example in examples:
        try:
            picture = example.open()
        except UnreadableImageError:
            continue
        yield picture, example.label


def _batches(images: Labelled) -> Iterator[list[tuple[Image.Image, int]]]:
    iterator = iter(images)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
