"""The heads of a few-shot classifier: small networks on the features of a backbone, several side by side."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from dct_augment.config import FewShotClassifierConfig, seed_from

HIDDEN = 64
"""Width of the hidden layer of an MLP head."""
COSINE_SCALE = 16.0
"""By which the cosine head multiplies cosines, so that a softmax of them can be sure."""
PENALTY = 1.0
"""Weight of the L2 penalty against the loss of one photo: scikit-learn's C = 1."""
FLOOR = 0.1
"""A feature that hardly varies is divided by this share of the mean deviation, not by its own, which is noise."""
ITERATIONS, HISTORY = 50, 10
"""Of L-BFGS; each step of its history takes as much memory as two gradients."""


class Heads(nn.Module):
    """Several classifiers of one kind on the same features (B, D), each with weights of its own.

    `linear`: w_k . x + b_k of standardised features x. `cosine`: 16 cos(w_k, x). `mlp`: linear on a hidden layer of 64
    with GELU.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, kind: str, width: int, classes: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.kind, self.count = kind, len(seeds)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        if kind == "mlp":
            self.hidden = nn.Parameter(_random(width, HIDDEN, generators))
            self.hidden_bias = nn.Parameter(torch.zeros(self.count, 1, HIDDEN))
            width = HIDDEN
        self.weight = nn.Parameter(_random(width, classes, generators))
        self.bias = nn.Parameter(torch.zeros(self.count, 1, classes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute logits (heads, B, K) of features (B, D)."""
        inputs = ((features - self.mean) / self.scale).expand(self.count, -1, -1)
        if self.kind == "cosine":
            cosines = functional.normalize(inputs, dim=2) @ functional.normalize(self.weight, dim=1)
            return COSINE_SCALE * cosines
        if self.kind == "mlp":
            inputs = functional.gelu(torch.baddbmm(self.hidden_bias, inputs, self.hidden))
        return torch.baddbmm(self.bias, inputs, self.weight)

    def standardise(self, features: torch.Tensor) -> None:
        """Take mean and deviation of each feature from features (N, D)."""
        deviation = features.std(0, unbiased=False)
        self.mean.copy_(features.mean(0))
        self.scale.copy_((deviation.square() + (FLOOR * deviation.mean()).square()).sqrt().clamp_min(1e-6))

    def penalty(self) -> torch.Tensor:
        """Half the sum of squared weights of each head, (heads,); the length of a cosine head's weights is free."""
        if self.kind == "cosine":
            return self.weight.new_zeros(self.count)
        total = self.weight.square().sum((1, 2))
        if self.kind == "mlp":
            total = total + self.hidden.square().sum((1, 2))
        return total / 2


def _random(inputs: int, outputs: int, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Draw the weights of each head from its own generator, (heads, inputs, outputs), of deviation 1 / sqrt(inputs)."""
    drawn = [torch.randn(inputs, outputs, generator=generator) for generator in generators]
    return torch.stack(drawn) / math.sqrt(inputs)


def train(
    features: torch.Tensor, places: torch.Tensor, classes: int, settings: FewShotClassifierConfig, seed: int
) -> Heads:
    """Train heads on the views of photos until nothing changes, at most 50 iterations of L-BFGS on all of them.

    Each head minimises sum_i w_i CE(softmax(z_i), y_i) + (PENALTY / 2N) |W|^2 over the views i of N photos, with label
    smoothing in CE. The weights w_i are random, Exp(1) from the seed of the head (the Bayesian bootstrap, Rubin 1981),
    so that heads differ; those of each class have the same sum, so that a class of few photos counts as any other.

    Args:
        features: (N, V, D), of V views of each photo.
        places: (N,), the place of each photo's class, 0..K-1.
        classes: K.
        settings: head, heads, label_smoothing.
        seed: of all heads together.
    """
    photos, views, width = features.shape
    rows = features.reshape(photos * views, width)
    truth = places.repeat_interleave(views)
    seeds = [seed_from("few-shot head", seed, number) for number in range(settings.heads)]
    heads = Heads(settings.head, width, classes, seeds).to(features)
    heads.standardise(rows)
    weights = torch.stack([_weights(truth.cpu(), classes, head_seed) for head_seed in seeds]).to(features)

    def loss() -> torch.Tensor:
        logits = heads(rows)
        smoothed = cross_entropies(logits, truth, settings.label_smoothing)
        return (weights * smoothed).sum() + PENALTY / photos * heads.penalty().sum()

    _minimise(heads, loss)
    return heads.requires_grad_(False)


def cross_entropies(logits: torch.Tensor, truth: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Compute the cross entropy of each head's answer on each row, (heads, B), of logits (heads, B, K)."""
    expanded = truth.expand(len(logits), -1)
    return functional.cross_entropy(logits.transpose(1, 2), expanded, reduction="none", label_smoothing=smoothing)


def _weights(truth: torch.Tensor, classes: int, seed: int) -> torch.Tensor:
    """Draw the weight of each row for one head, (B,); all together 1, and each class as much as any other."""
    generator = torch.Generator().manual_seed(seed_from("weights", seed))
    drawn = torch.empty(len(truth)).exponential_(generator=generator)
    sums = torch.zeros(classes).index_add_(0, truth, drawn)
    return drawn / sums[truth] / int((sums > 0).sum())


def _minimise(heads: Heads, loss: Callable[[], torch.Tensor]) -> None:
    optimizer = torch.optim.LBFGS(
        heads.parameters(), max_iter=ITERATIONS, history_size=HISTORY, line_search_fn="strong_wolfe"
    )

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(step)


def log_probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Average the probabilities of all heads, as logarithms: log 1/H sum_h softmax(z_h / T), (B, K) of (H, B, K).

    Summed as logarithms, so that a probability too small for float32 still has a gradient.
    """
    return (logits / temperature).log_softmax(2).logsumexp(0) - math.log(len(logits))
