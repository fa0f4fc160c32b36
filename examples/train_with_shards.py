"""Train a small timm model on a few real images and the synthetic images of a run, and test it.

    dct-augment generate --classes crane,kiwi
    python examples/train_with_shards.py runs/pocket/shards --classes crane,kiwi

Each training image is a real one, or with probability `--probability` a synthetic one of the same class.
"""

import argparse
from pathlib import Path

import timm
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, Resize, ToTensor

import dct_augment
from dct_augment import datasets
from dct_augment.errors import DctAugmentError


def main() -> None:
    """Read the arguments and train; what cannot be used ends the program with one message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="folder of shards")
    parser.add_argument("--classes", default="crane,kiwi", help="classes of Pocket, separated by commas")
    parser.add_argument("--shots", type=int, default=5, help="real images of each class")
    parser.add_argument("--steps", type=int, default=60, help="gradient steps")
    parser.add_argument(
        "--probability", type=float, default=0.7, help="how often a synthetic image replaces a real one"
    )
    arguments = parser.parse_args()
    try:
        train(arguments)
    except DctAugmentError as error:
        parser.error(str(error))


def train(arguments: argparse.Namespace) -> None:
    """Train on the mixture, and print the accuracy on the test images."""
    birds = dct_augment.load_dataset("pocket")
    classes = datasets.select(birds, arguments.classes.split(","))
    split = dct_augment.few_shot(datasets.DatasetSubset(birds.name, classes, birds, {}), arguments.shots, seed=0)
    transform = Compose([Resize(48), ToTensor()])
    real = dct_augment.RealImages(split.train, transform)
    synthetic = dct_augment.SyntheticImages(arguments.shards, transform=transform)
    length = arguments.steps * 16
    mixture = dct_augment.Mixture(real, synthetic, probability=arguments.probability, length=length)

    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet_gn", num_classes=len(birds.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for images, labels in DataLoader(mixture, batch_size=16):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    model.eval()
    right = 0
    with torch.no_grad():
        for images, labels in DataLoader(dct_augment.RealImages(split.test, transform), batch_size=64):
            right += int((model(images).argmax(1) == labels).sum())
    print(f"{right} of {len(split.test)} test images are recognised")


if __name__ == "__main__":
    main()
