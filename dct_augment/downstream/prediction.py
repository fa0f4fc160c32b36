"""What a trained classifier says of images."""

from collections.abc import Iterator

import torch
from torch import nn

from dct_augment.devices import is_out_of_memory
from dct_augment.downstream.prepared import PreparedImages
from dct_augment.errors import DctAugmentError

BATCH = 128
"""Images that a classifier is shown at a time."""


def answer(model: nn.Module, images: PreparedImages, device: str = "cpu") -> torch.Tensor:
    """Show every image to a classifier; return the logits (N, K) in order, float32 on the CPU.

    Where memory runs out, the batch is halved.

    Raises:
        DctAugmentError: memory runs out with a single image.
    """
    return torch.cat(list(_answers(model, images, device)))


def predict(model: nn.Module, images: PreparedImages, device: str = "cpu") -> list[int]:
    """Show every image to a classifier; return the most probable class of each. See `answer`."""
    return [label for logits in _answers(model, images, device) for label in logits.argmax(1).tolist()]


def accuracy(model: nn.Module, images: PreparedImages, device: str = "cpu") -> float:
    """Give the share of the images that are recognised."""
    predicted = predict(model, images, device)
    return sum(label == prediction for label, prediction in zip(images.labels, predicted, strict=True)) / len(images)


def _answers(model: nn.Module, images: PreparedImages, device: str) -> Iterator[torch.Tensor]:
    """Yield the logits of the images, batch by batch."""
    size, done = BATCH, 0
    while done < len(images):
        count = min(size, len(images) - done)
        try:
            logits = _logits(model, images.batch(slice(done, done + count), device))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if count == 1:
                raise DctAugmentError(
                    f"out of memory on {device} with a single image: lower downstream.image_size, now "
                    f"{' x '.join(map(str, images.taken.size))} pixels, or choose a smaller downstream.model"
                ) from error
            size = count // 2
            continue
        yield logits
        done += count


@torch.no_grad()
def _logits(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(batch).float().cpu()
    return logits
