"""Says how much memory the training of a classifier takes, before it begins."""

import timm
import torch
from torch import nn

from dct_augment.classifiers.names import resolve
from dct_augment.config import DownstreamConfig
from dct_augment.downstream.in_memory import MOST_BYTES
from dct_augment.downstream.prediction import BATCH as ANSWERED
from dct_augment.downstream.transforms import ModelInput, model_input

_COPIES_TRAINED = 5
"""Of a trained weight: itself, its gradient, two of AdamW, and the best state."""
_COPIES_FROZEN = 2
_BESIDES_LAYERS = 2
"""Tensors that a step keeps, for each that is the output of a layer: sums, attention, activation functions."""
_BYTES_OF_A_PROCESS = 500 * 10**6
"""Python, torch and what it allocates without giving it back."""
_BYTES_OF_A_READER = 300 * 10**6


def bytes_of_training(settings: DownstreamConfig, classes: int, pictures: int) -> int:
    """Estimate the memory of a process that trains a classifier on a CPU; validation and test pictures are not in it.

    The model is built without weights, and an image without pixels goes through it.

    Args:
        settings: of the classifier.
        classes: outputs.
        pictures: how many it is trained on.

    Raises:
        ModelError: unknown model.
    """
    taken = model_input(settings)
    weights, kept, largest = _sizes(settings, taken, classes)
    is_trained = settings.train == "fine_tune"
    training = settings.batch_size * (kept if is_trained else largest) * _BESIDES_LAYERS
    answering = ANSWERED * largest * _BESIDES_LAYERS
    # In memory they are at most so large beyond the input, as a rule.
    decoded = min(pictures * 3 * (2 * max(taken.size)) ** 2, 2 * MOST_BYTES)
    copies = _COPIES_TRAINED if is_trained else _COPIES_FROZEN
    readers = (settings.workers or 0) * _BYTES_OF_A_READER
    return _BYTES_OF_A_PROCESS + copies * weights + max(training, answering) + decoded + readers


def _sizes(settings: DownstreamConfig, taken: ModelInput, classes: int) -> tuple[int, int, int]:
    """Return bytes: of the weights, of the outputs of all layers for one image, and of the largest of these.

    All are 0 for a model that cannot be built without weights.
    """
    outputs: list[int] = []

    def note(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            outputs.append(output.numel() * output.element_size())

    options = {"img_size": taken.size} if taken.fixed_size and taken.size != taken.own_size else {}
    try:
        with torch.random.fork_rng([]), torch.device("meta"), torch.no_grad():
            name = resolve(settings.model, "timm").timm_name
            model = timm.create_model(name, pretrained=False, num_classes=classes, **options).eval()
            for layer in model.modules():
                if not list(layer.children()):
                    layer.register_forward_hook(note)
            model(torch.zeros(1, 3, *taken.size))
    except Exception:  # whatever a layer does that needs numbers; training tells what is wrong
        return 0, 0, 0
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return weights, sum(outputs), max(outputs)
