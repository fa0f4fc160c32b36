"""What a trained classifier says of images."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from dct_augment.downstream.transforms import InMemoryImages


@torch.no_grad()
def answer(model: nn.Module, images: InMemoryImages, device: str = "cpu") -> tuple[list[int], torch.Tensor]:
    """Show every image to a classifier; return the labels and the logits (N, K) in order, float32 on the CPU."""
    truth: list[int] = []
    logits: list[torch.Tensor] = []
    for batch, labels in DataLoader(images, batch_size=128):
        truth += labels.tolist()
        logits.append(model(batch.to(device)).float().cpu())
    return truth, torch.cat(logits)


def accuracy(model: nn.Module, images: InMemoryImages, device: str = "cpu") -> float:
    """Give the share of the images that are recognised."""
    truth, logits = answer(model, images, device)
    predicted = logits.argmax(1).tolist()
    return sum(label == prediction for label, prediction in zip(truth, predicted, strict=True)) / len(truth)
