"""What a trained classifier says of images."""

import torch
from torch import nn

from dct_augment.devices import is_out_of_memory
from dct_augment.downstream.transforms import InMemoryImages
from dct_augment.errors import DctAugmentError

_BATCH = 128


def answer(model: nn.Module, images: InMemoryImages, device: str = "cpu") -> tuple[list[int], torch.Tensor]:
    """Show every image to a classifier; return the labels and the logits (N, K) in order, float32 on the CPU.

    Where memory runs out, the batch is halved.

    Raises:
        DctAugmentError: memory runs out with a single image.
    """
    truth: list[int] = []
    logits: list[torch.Tensor] = []
    size = _BATCH
    while len(truth) < len(images):
        places = range(len(truth), min(len(truth) + size, len(images)))
        batch = [images[place] for place in places]
        try:
            answers = _logits(model, torch.stack([image for image, _ in batch]), device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise DctAugmentError(
                    f"out of memory on {device} with a single image: lower downstream.image_size, now "
                    f"{' x '.join(map(str, batch[0][0].shape[1:]))} pixels, or choose a smaller downstream.model"
                ) from error
            size = len(batch) // 2
            continue
        truth += [label for _, label in batch]
        logits.append(answers)
    return truth, torch.cat(logits)


@torch.no_grad()
def _logits(model: nn.Module, batch: torch.Tensor, device: str) -> torch.Tensor:
    logits: torch.Tensor = model(batch.to(device)).float().cpu()
    return logits


def accuracy(model: nn.Module, images: InMemoryImages, device: str = "cpu") -> float:
    """Give the share of the images that are recognised."""
    truth, logits = answer(model, images, device)
    predicted = logits.argmax(1).tolist()
    return sum(label == prediction for label, prediction in zip(truth, predicted, strict=True)) / len(truth)
