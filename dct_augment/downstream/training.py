"""The low-resource classifier: one recipe for every arm of the benchmark, and for a few-shot guide."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
from torch import nn
from torch.nn import functional
from torchvision.transforms import v2

from dct_augment.classifiers.names import resolve
from dct_augment.config import DownstreamConfig
from dct_augment.devices import is_out_of_memory
from dct_augment.downstream.loading import batches
from dct_augment.downstream.mixing import Mixture
from dct_augment.downstream.prediction import accuracy
from dct_augment.downstream.prepared import PreparedImages
from dct_augment.downstream.transforms import ModelInput, cannot_be_made, model_input
from dct_augment.errors import DctAugmentError, ModelError
from dct_augment.wording import in_one_line

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda weights, **kwargs: torch.optim.AdamW(weights, fused=True, **kwargs),
    "sgd": lambda weights, **kwargs: torch.optim.SGD(weights, momentum=0.9, nesterov=True, **kwargs),
}


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier, frozen, and the accuracy by which the validation split chose it; NaN if there is none."""

    model: nn.Module
    val_accuracy: float


def fit(
    data: Mixture,
    settings: DownstreamConfig,
    *,
    classes: int,
    seed: int,
    mixed: bool = False,
    validation: PreparedImages | None = None,
    device: str = "cpu",
) -> TrainedClassifier:
    """Train a classifier of `classes` outputs on `settings.steps` batches, all its randomness from `seed`.

    It draws from torch's generators alone, those of the CPU and of `device`, and leaves them as they were.
    Validates `settings.validation_rounds` times, evenly, and returns the best state; of equal ones the last. `mixed`
    applies mixup and cutmix.

    On a GPU that has bfloat16, steps use it where autocast does; convolutions have their channels last there.

    Raises:
        ModelError: unknown model.
        DctAugmentError: the loss is not finite, or memory runs out.
    """
    try:
        with _seeded(seed, torch.device(device)):
            return _fit(data, settings, classes, seed, mixed, validation, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _out_of_memory(settings, device) from error


def _fit(
    data: Mixture,
    settings: DownstreamConfig,
    classes: int,
    seed: int,
    mixed: bool,
    validation: PreparedImages | None,
    device: str,
) -> TrainedClassifier:
    layout = torch.channels_last if device.startswith("cuda") else torch.contiguous_format  # slow on a CPU
    model = create(settings, classes).to(device, memory_format=layout)  # type: ignore[call-overload]
    train = _training_mode(model, settings)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = _OPTIMIZERS[settings.optimizer](weights, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps + 1)
    mix = _mix(settings, classes) if mixed else None
    validation_steps = {
        round(settings.steps * (n + 1) / settings.validation_rounds) for n in range(settings.validation_rounds)
    }
    best, chosen = float("nan"), None
    train()
    with closing(batches(data, settings, device, seed)) as loaded:
        for step, (images, labels) in enumerate(loaded, 1):
            images, labels = mix(images, labels) if mix else (images, labels)
            images = images.to(device, non_blocking=True, memory_format=layout)
            labels = labels.to(device, non_blocking=True)
            optimizer.zero_grad(set_to_none=True)
            with _autocast(device):
                loss = functional.cross_entropy(model(images), labels)
            _refuse_infinite(loss, step, settings)
            loss.backward()
            optimizer.step()
            schedule.step()
            if validation is not None and step in validation_steps:
                val_accuracy = accuracy(model.eval(), validation, device)
                if not val_accuracy < best:
                    best, chosen = val_accuracy, {name: value.clone() for name, value in model.state_dict().items()}
                train()
    if chosen is not None:
        model.load_state_dict(chosen)
    model.to(memory_format=torch.contiguous_format)  # as files of weights have it
    return TrainedClassifier(model.eval().requires_grad_(False), best)


def _autocast(device: str) -> AbstractContextManager[Any]:
    """Let operations use bfloat16 on a GPU that has it."""
    if device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def create(settings: DownstreamConfig, classes: int) -> nn.Module:
    """The classifier before training, made for images of `settings.image_size`.

    Raises:
        ModelError: unknown model, weights that cannot be had, or a size that the model cannot take.
    """
    taken = model_input(settings)
    other_size = taken.size != taken.own_size
    # What has learned a place for each patch of one size is made for another one; its weights are interpolated.
    options = {"img_size": taken.size} if taken.fixed_size and other_size else {}
    name = resolve(settings.model, "timm").timm_name
    try:
        model = timm.create_model(name, pretrained=settings.pretrained, num_classes=classes, **options)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, AssertionError, ZeroDivisionError) as error:
        if options:
            raise _wrong_size(settings, taken, error) from error
        raise cannot_be_made(settings, error) from error
    if other_size:
        _try_size(model, settings, taken)
    return cast(nn.Module, model)


def _try_size(model: nn.Module, settings: DownstreamConfig, taken: ModelInput) -> None:
    """Let a model answer an empty image, in evaluation, where nothing of it changes.

    Raises:
        ModelError: it cannot.
    """
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, *taken.size))
    except Exception as error:  # whatever a layer raises on sizes that it does not expect
        raise _wrong_size(settings, taken, error) from error
    model.train()


def _wrong_size(settings: DownstreamConfig, taken: ModelInput, error: Exception) -> ModelError:
    reason = in_one_line(error)
    own = " x ".join(map(str, taken.own_size))
    return ModelError(
        f"downstream.image_size {settings.image_size}: {settings.model!r} cannot take images of this size: {reason}. "
        f"Leave image_size unset for its own, {own}, or try a multiple of 32"
    )


def _training_mode(model: Any, settings: DownstreamConfig) -> Callable[[], Any]:
    """Make trainable what the setting says; what to call before training steps.

    Under a linear probe the backbone stays as in evaluation: its batch statistics, too, are weights.
    """
    if settings.train == "fine_tune":
        return model.train
    model.requires_grad_(False)
    heads = model.get_classifier()
    for head in heads if isinstance(heads, tuple | list) else [heads]:  # distilled models have two
        head.requires_grad_(True)
    return model.eval


def _mix(settings: DownstreamConfig, classes: int) -> v2.Transform | None:
    """Mix each image of a batch with the one before it, and their labels; with both settings one or the other way."""
    ways: list[v2.Transform] = []
    if settings.mixup:
        ways.append(v2.MixUp(alpha=settings.mixup, num_classes=classes))
    if settings.cutmix:
        ways.append(v2.CutMix(alpha=settings.cutmix, num_classes=classes))
    return v2.RandomChoice(ways) if ways else None


def _out_of_memory(settings: DownstreamConfig, device: str) -> DctAugmentError:
    size = settings.image_size or f"unset: {model_input(settings).size[0]}"
    return DctAugmentError(
        f"out of memory on {device} while {settings.model!r} is trained: lower "
        f"downstream.batch_size, now {settings.batch_size}, or downstream.image_size, now {size}"
    )


def _refuse_infinite(loss: torch.Tensor, step: int, settings: DownstreamConfig) -> None:
    if not bool(loss.isfinite()):
        raise DctAugmentError(
            f"benchmark: the loss is not finite in step {step} of {settings.steps}; lower downstream.learning_rate, "
            f"now {settings.learning_rate}"
        )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators of the CPU and of a device; afterwards they are as they were.

    `torch.manual_seed` would seed all other devices, too.
    """
    if device.type == "cpu":
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    with torch.random.fork_rng([device], device_type=device.type):
        torch.default_generator.manual_seed(seed)
        state = torch.Generator(device).manual_seed(seed).get_state()
        torch.get_device_module(device).set_rng_state(state, device)
        yield
