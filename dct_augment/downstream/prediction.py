"""What a trained classifier says of images."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from dct_augment.downstream.transforms import InMemoryImages


@torch.no_grad()
def predict(model: nn.Module, images: InMemoryImages, device: str = "cpu") -> tuple[list[int], list[int]]:
    """Predict every image; return the labels and the predictions in order, as class indices."""
    truth: list[int] = []
    predictions: list[int] = []
    for batch, labels in DataLoader(images, batch_size=128):
        truth += labels.tolist()
        predictions += model(batch.to(device)).argmax(1).tolist()
    return truth, predictions


def accuracy(model: nn.Module, images: InMemoryImages, device: str = "cpu") -> float:
    """Give the share of the images that are recognised."""
    truth, predictions = predict(model, images, device)
    return sum(label == prediction for label, prediction in zip(truth, predictions, strict=True)) / len(truth)
