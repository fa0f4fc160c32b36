"""What a classifier itself needs to be trained and tested, on made-up tensors: `MODEL SIDE BATCH OUTPUTS`."""

import sys

import timm
import torch
from torch.nn import functional

from dct_augment.downstream.prediction import BATCH


def train_and_answer(name: str, side: int, batch: int, outputs: int) -> None:
    """Train for three steps, keep the state as a trial does, and answer a batch."""
    torch.set_num_threads(1)
    model = timm.create_model(name, num_classes=outputs)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images, labels = torch.randn(batch, 3, side, side), torch.zeros(batch, dtype=torch.long)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():
        model.eval()(torch.randn(BATCH, 3, side, side))
    print(f"{sum(value.numel() for value in kept.values()):,} weights")


if __name__ == "__main__":
    train_and_answer(sys.argv[1], *map(int, sys.argv[2:]))
