"""Generates the images of a plan: one batch is scored and encoded while the next one denoises."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from dct_augment.classifiers import Classifier
from dct_augment.config import seed_from
from dct_augment.diffusion import Conditioning, Sampler, ShrinkingBatches, Trajectory, split_by_encoder
from dct_augment.diffusion.image_memory import fit_batches
from dct_augment.generation import image_files
from dct_augment.generation.start_images import StartImages
from dct_augment.images import to_pixels
from dct_augment.records import ClassInfo, GeneratedImage, PlanRow, ProgressCallback, ignore_progress

_MOST_ENCODED_PROMPTS = 256  # that are kept: those of a dozen classes, or at most 200 MB of SDXL's


@dataclass(frozen=True)
class _Scorer:
    """A classifier that scores generated images: `guide` or `judge`, and its label of each class by class index."""

    role: str
    classifier: Classifier
    targets: Mapping[int, int]

    def score(self, images: torch.Tensor, rows: Sequence[PlanRow]) -> list[dict[str, Any]]:
        """Score images (B, 3, H, W); for each the fields of `GeneratedImage` that are of this classifier."""
        targets = [self.targets[row.class_index] for row in rows]
        return [
            {
                f"{self.role}_label": prediction.label,
                f"{self.role}_right": prediction.is_target,
                f"{self.role}_confidence": prediction.probability,
            }
            for prediction in self.classifier.predictions(images, targets)
        ]


def noisy_token(vector: torch.Tensor, share: float, seed: int, widths: Sequence[int]) -> torch.Tensor:
    """Return a class token (n, D) with Gaussian noise on it, a function of these values alone.

    Each of its n vectors, in the part (n, d) of each text encoder, gets share * |v| / sqrt(d) * g with g ~ N(0, 1), so
    that the root mean square of the noise's length is `share` of the vector's own.

    Args:
        vector: the token, float32.
        share: length of the noise.
        seed: of the image; the noise of its latents is another one.
        widths: d of each text encoder; together D.
    """
    generator = torch.Generator().manual_seed(seed_from("token noise", seed))
    noise = torch.randn(vector.shape, generator=generator).to(vector)
    parts = zip(split_by_encoder(vector, widths), split_by_encoder(noise, widths), strict=True)
    return torch.cat([part + share * part.norm(dim=1, keepdim=True) / part.shape[1] ** 0.5 * g for part, g in parts], 1)


class Generator:
    """Turns plan rows into images with one sampler.

    With an `image_format`, images come with their files. `negatives` are negative prompts by the slugs of all classes,
    where they differ, each with the vector (n, D) of its token if it holds one.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        classes: Sequence[ClassInfo],
        guide: Classifier | None = None,
        judge: Classifier | None = None,
        starts: StartImages | None = None,
        negatives: Mapping[str, tuple[str, torch.Tensor | None]] | None = None,
        image_format: str | None = None,
        on_progress: ProgressCallback = ignore_progress,
    ) -> None:
        self._sampler = sampler
        self._starts = starts
        self._negatives = negatives or {}
        self._encoded_negatives: dict[str, Conditioning] = {}
        self._image_format = image_format
        self._on_progress = on_progress
        self._encoded: dict[tuple[str, str], Conditioning] = {}
        self._scorers = []
        for role, classifier in (("guide", guide), ("judge", judge)):
            if classifier is not None:
                labels = zip(classes, classifier.targets(classes), strict=True)
                self._scorers.append(_Scorer(role, classifier, {info.index: target for info, target in labels}))

    def generate(
        self, rows: Sequence[PlanRow], vectors: Mapping[str, torch.Tensor], batch_size: int
    ) -> Iterator[GeneratedImage]:
        """Generate the images of rows in order, `batch_size` at a time.

        A batch is scored, and its files are encoded, in a thread beside the next batch.

        `vectors` (n, d) are the class tokens by slug; a class without one is generated with its plain prompt.

        An image that is not finite, or whose start image cannot be read, becomes a failed one: a row with an error and
        no pixels. Where memory runs out, the batch is halved, for good; the images stay what they are.

        Raises:
            DctAugmentError: memory runs out with a single image.
        """

        def generate(batch: Sequence[PlanRow]) -> torch.Tensor:
            return self._generate_batch(batch, vectors)

        fit_batches(self._sampler)
        sizes = self._sampler.backend.batch_sizes
        batches = ShrinkingBatches(batch_size, "image", self._on_progress, sizes=sizes)
        pending: Future[list[GeneratedImage]] | None = None
        with ThreadPoolExecutor(1) as pool:
            for batch, images in batches.run(rows, generate):
                scoring = pool.submit(self._score_and_encode, batch, images)
                if pending is not None:
                    yield from pending.result()
                pending = scoring
            if pending is not None:
                yield from pending.result()

    @torch.no_grad()
    def _generate_batch(self, rows: Sequence[PlanRow], vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Generate images (B, 3, H, W) in [-1, 1]."""
        starts = self._starts.latents(row.start_key for row in rows if row.start_key) if self._starts else {}
        possible = [place for place, row in enumerate(rows) if not row.start_key or row.start_key in starts]
        size = self._sampler.backend.image_size
        images = torch.full((len(rows), 3, size, size), float("nan"), device=self._sampler.backend.device)
        by_strength: dict[float, list[int]] = {}
        for place in possible:
            by_strength.setdefault(rows[place].strength, []).append(place)
        trajectories = [
            self._begin([rows[place] for place in places], vectors, starts) for places in by_strength.values()
        ]
        self._sampler.advance(trajectories)
        for places, trajectory in zip(by_strength.values(), trajectories, strict=True):
            images[places] = self._sampler.images(trajectory)
        return images

    def _begin(
        self, rows: Sequence[PlanRow], vectors: Mapping[str, torch.Tensor], starts: Mapping[str, torch.Tensor]
    ) -> Trajectory:
        """Begin the images of rows of one strength."""
        conditioning = Conditioning.cat(self._encode(row, vectors.get(row.slug)) for row in rows)
        if self._negatives:
            conditioning = replace(conditioning, negative=Conditioning.cat(self._negative(row.slug) for row in rows))
        seeds = [row.seed for row in rows]
        if not rows[0].start_key:
            return self._sampler.begin(seeds, conditioning)
        clean = torch.stack([starts[row.start_key] for row in rows])
        return self._sampler.begin_at(clean, seeds, conditioning, rows[0].strength)

    def _negative(self, slug: str) -> Conditioning:
        """Encode the negative prompt of a class, once."""
        if slug not in self._encoded_negatives:
            if len(self._encoded_negatives) == _MOST_ENCODED_PROMPTS:
                self._encoded_negatives.pop(next(iter(self._encoded_negatives)))
            self._encoded_negatives[slug] = self._sampler.negative(*self._negatives[slug])
        return self._encoded_negatives[slug]

    def _encode(self, row: PlanRow, vector: torch.Tensor | None) -> Conditioning:
        """Encode the prompt of one row, whose token may have noise of its own on it."""
        if vector is None or not row.token_noise:
            return self._encode_prompt(row, vector)
        backend = self._sampler.backend
        noisy = noisy_token(vector, row.token_noise, row.seed, list(backend.encoder_widths.values()))
        return backend.encode([row.prompt], noisy[None])

    def _encode_prompt(self, row: PlanRow, vector: torch.Tensor | None) -> Conditioning:
        """Encode one prompt, once: those of a class are few, and its images many."""
        key = (row.prompt, row.token_sha256)
        if key not in self._encoded:
            if len(self._encoded) == _MOST_ENCODED_PROMPTS:
                self._encoded.pop(next(iter(self._encoded)))
            vectors = None if vector is None else vector[None]
            self._encoded[key] = self._sampler.backend.encode([row.prompt], vectors)
        return self._encoded[key]

    def _score_and_encode(self, rows: Sequence[PlanRow], images: torch.Tensor) -> list[GeneratedImage]:
        """Turn images (B, 3, H, W) in [-1, 1] into pixels and files, with what guide and judge say of each."""
        is_finite = images.flatten(1).isfinite().all(1).tolist()
        scores = [scorer.score(images, rows) for scorer in self._scorers]
        pixels = to_pixels(images).permute(0, 2, 3, 1).cpu().numpy()
        generated = []
        for number, row in enumerate(rows):
            if not is_finite[number]:
                problem = self._starts.problem(row.start_key) if self._starts else ""
                generated.append(GeneratedImage(row, None, "failed", problem or "image is not finite"))
                continue
            fields: dict[str, Any] = {}
            for of_scorer in scores:
                fields |= of_scorer[number]
            picture = Image.fromarray(pixels[number])
            file = image_files.encode(picture, self._image_format) if self._image_format else None
            generated.append(GeneratedImage(row, picture, file=file, **fields))
        return generated
