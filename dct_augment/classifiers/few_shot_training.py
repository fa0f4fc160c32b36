"""Trains the heads of a few-shot classifier, and its backbone if asked, on some of the photos."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dct_augment import calibration
from dct_augment.classifiers.backbones import Backbone
from dct_augment.classifiers.few_shot_heads import Heads, cross_entropies, train
from dct_augment.classifiers.few_shot_views import Views
from dct_augment.classifiers.out_of_fold import OutOfFold, measure
from dct_augment.config import FewShotClassifierConfig, seed_from

BATCH, HEADS_RATE = 32, 1e-3


@dataclass(frozen=True)
class Trained:
    """A backbone and the heads that were trained on it."""

    backbone: Backbone
    heads: Heads


class Fitting:
    """Trains on some photos, and answers others. The features of the pretrained backbone are computed once.

    `unmirrored` is the same without mirrored views, whose features need not be computed again.
    """

    def __init__(
        self,
        settings: FewShotClassifierConfig,
        backbone: Backbone,
        views: Views,
        places: Sequence[int],
        names: Sequence[str],
        seed: int,
        device: str,
        unmirrored: "Fitting | None" = None,
    ) -> None:
        self._settings, self._backbone, self._views, self._seed = settings, backbone, views, seed
        self._names, self._device = names, device
        self._places = torch.tensor(places, device=device)
        every = [(photo, number) for photo in range(len(places)) for number in range(views.count)]
        if unmirrored is None:
            self._features = self._features_of(backbone, every).unflatten(0, (len(places), views.count))
            return
        self._features = unmirrored._features.clone()
        mirrored = [pair for pair in every if views.is_mirrored(*pair)]
        if mirrored:
            photos, numbers = zip(*mirrored, strict=True)
            self._features[list(photos), list(numbers)] = self._features_of(backbone, mirrored)

    @torch.no_grad()
    def _features_of(self, backbone: Backbone, chosen: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Compute the features of some views, each given by photo and number, (B, D) float32."""
        batches = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
        inputs = (self._views.batch(batch).to(self._device) for batch in batches)
        return torch.cat([backbone.model(batch).float() for batch in inputs])

    def trained_on(self, photos: Sequence[int]) -> Trained:
        """Train on all views of some photos."""
        chosen = torch.tensor(photos, device=self._device)
        features, places = self._features[chosen], self._places[chosen]
        heads = train(features, places, len(self._names), self._settings, self._seed)
        trained = Trained(self._backbone, heads)
        return self._fine_tuned(trained, photos) if self._settings.fine_tune else trained

    def _fine_tuned(self, trained: Trained, photos: Sequence[int]) -> Trained:
        """Train a copy of the backbone together with the heads, by AdamW in one cycle.

        Statistics of batch norms stay, and nothing is dropped out.
        """
        backbone = Backbone(copy.deepcopy(trained.backbone.model).requires_grad_(True), trained.backbone.preprocess)
        heads = trained.heads.requires_grad_(True)
        rate, steps = self._settings.fine_tune_learning_rate, self._settings.fine_tune_steps
        rates = [rate, max(rate, HEADS_RATE)]
        groups = [{"params": list(part.parameters())} for part in (backbone.model, heads)]
        optimizer = torch.optim.AdamW(groups, lr=rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps + 1)
        generator = torch.Generator().manual_seed(seed_from("few-shot fine-tuning", self._seed))
        for _ in range(steps):
            drawn = torch.randint(len(photos), (BATCH,), generator=generator).tolist()
            numbers = torch.randint(self._views.count, (BATCH,), generator=generator).tolist()
            chosen = [photos[place] for place in drawn]
            batch = self._views.batch(list(zip(chosen, numbers, strict=True))).to(self._device)
            logits = heads(backbone.model(batch))
            loss = cross_entropies(logits, self._places[chosen], self._settings.label_smoothing).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        backbone.model.requires_grad_(False)
        return Trained(backbone, heads.requires_grad_(False))

    @torch.no_grad()
    def _answers(self, trained: Trained, photos: Sequence[int]) -> torch.Tensor:
        """Compute logits (heads, B, K) of photos as they are."""
        if trained.backbone is self._backbone:
            return trained.heads(self._features[torch.tensor(photos, device=self._device), 0])
        return trained.heads(self._features_of(trained.backbone, [(photo, 0) for photo in photos]))

    def measured(self, folds: Sequence[Sequence[int]], options: int) -> OutOfFold:
        """Answer the photos of each fold by a classifier that is made of all others; see `measure` for the options."""
        answers: list[torch.Tensor] = []
        answered: list[int] = []
        for fold in folds:
            held_out = set(fold)
            rest = [photo for photo in range(len(self._places)) if photo not in held_out]
            answers.append(self._answers(self.trained_on(rest), fold))
            answered += fold
        logits, places = torch.cat(answers, 1), self._places[answered].tolist()
        temperature = calibration.temperature(logits.double().cpu().numpy(), places)
        return measure(logits, places, self._names, len(folds), temperature, flips=self._views.flips, options=options)
