"""Draws the images of a plan: shard by shard, batch by batch, encoding while the next batch denoises."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image

from dct_augment.classifiers import Classifier, Prediction
from dct_augment.config import SamplingConfig
from dct_augment.diffusion import Backend, Conditioning, ShrinkingBatches, sample
from dct_augment.images import to_pixels
from dct_augment.records import ClassInfo, GeneratedImage, PlanRow, ProgressCallback, ignore_progress

_TEXTS = 256  # encoded prompts that are kept: those of a dozen classes, or at most 200 MB of SDXL's


class Generator:
    """Turns plan rows into samples with one back-end."""

    def __init__(
        self,
        backend: Backend,
        *,
        sampling: SamplingConfig,
        negative: str,
        classes: Sequence[ClassInfo],
        guide: Classifier | None = None,
        judge: Classifier | None = None,
        on_progress: ProgressCallback = ignore_progress,
    ) -> None:
        self._at_once: int | None = None
        self._on_progress = on_progress
        self._texts: dict[tuple[str, str], Conditioning] = {}
        self._backend, self._sampling = backend, sampling
        with torch.no_grad():
            self._unconditional = backend.unconditional(negative)
        self._judges = [
            (name, judge, {info.index: target for info, target in zip(classes, judge.targets(classes), strict=True)})
            for name, judge in (("guide", guide), ("judge", judge))
            if judge is not None
        ]

    def draw(
        self, rows: Sequence[PlanRow], vectors: Mapping[str, torch.Tensor], batch_size: int
    ) -> Iterator[GeneratedImage]:
        """Draw rows in order, `batch_size` at a time; scoring overlaps with the next batch's denoising.

        `vectors` (n, d) are the class tokens by slug; a class without one is drawn with its plain prompt.

        An image that is not finite becomes a failed sample: a row with an error and no picture. Where memory
        runs out, the batch is halved, for good; the images stay what they are.

        Raises:
            DctAugmentError: memory runs out with a single image.
        """
        batches = ShrinkingBatches(min(batch_size, self._at_once or batch_size), "images", self._on_progress)
        with ThreadPoolExecutor(1) as pool:
            pending = None
            for batch, images in batches.run(rows, lambda some: self._render(some, vectors)):
                finished = pool.submit(self._finish, batch, images)
                if pending is not None:
                    yield from pending.result()
                pending = finished
            self._at_once = batches.size
            if pending is not None:
                yield from pending.result()

    @torch.no_grad()
    def _render(self, batch: Sequence[PlanRow], vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images (B, 3, H, W) in [-1, 1]."""
        conditioning = Conditioning.cat(self._encode(row, vectors.get(row.slug)) for row in batch)
        return sample(
            self._backend,
            [row.seed for row in batch],
            conditioning,
            self._unconditional,
            steps=self._sampling.num_inference_steps,
            scale=self._sampling.guidance_scale,
            scheduler=self._sampling.scheduler,
        )

    def _encode(self, row: PlanRow, vector: torch.Tensor | None) -> Conditioning:
        """One encoded prompt; those of a class are few, and its images many."""
        key = (row.prompt, row.token_sha256)
        if key not in self._texts:
            if len(self._texts) == _TEXTS:
                self._texts.pop(next(iter(self._texts)))
            self._texts[key] = self._backend.encode([row.prompt], None if vector is None else vector[None])
        return self._texts[key]

    def _finish(self, batch: Sequence[PlanRow], images: torch.Tensor) -> list[GeneratedImage]:
        finite = images.flatten(1).isfinite().all(1).tolist()
        predictions: dict[str, list[Prediction]] = {}
        for name, judge, targets in self._judges:
            predictions[name] = judge.predictions(images, [targets[row.class_index] for row in batch])
        pixels = to_pixels(images).permute(0, 2, 3, 1).cpu().numpy()
        samples = []
        for index, row in enumerate(batch):
            if not finite[index]:
                samples.append(GeneratedImage(row, None, "failed", "image is not finite"))
                continue
            columns: dict[str, Any] = {}
            for name, of_images in predictions.items():
                prediction = of_images[index]
                columns[f"{name}_label"] = prediction.label
                columns[f"{name}_right"] = prediction.is_target
                columns[f"{name}_confidence"] = prediction.probability
            samples.append(GeneratedImage(row, Image.fromarray(pixels[index]), **columns))
        return samples
