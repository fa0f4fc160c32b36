"""Trading speed for memory: three settings, chosen from what is free if the user does not say."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, Literal, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from dct_augment.devices import is_out_of_memory
from dct_augment.errors import DctAugmentError
from dct_augment.records import Progress, ProgressCallback, ignore_progress
from dct_augment.wording import counted

T = TypeVar("T")
R = TypeVar("R")

Memory = Literal["low", "balanced", "fast"]


def free_bytes(device: str) -> int:
    """Memory that is free on a device; for a CPU, what the machine could give without swapping."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":") for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def choose(weights: int, free: int) -> Memory:
    """`balanced` where three times the weights are free, else `low`; what activations need grows alike.

    Never `fast`: half the activations are worth more, in images trained at once, than the tenth of time they cost.
    """
    return "balanced" if free >= 3 * weights else "low"


def weight_bytes(parts: Iterable[Any]) -> int:
    """Bytes of all weights of the models among some parts, e.g. the components of a pipeline."""
    models = (part for part in parts if isinstance(part, torch.nn.Module))
    return sum(weight.numel() * weight.element_size() for model in models for weight in model.parameters())


def apply(pipe: Any, memory: Memory) -> None:
    """Set a pipeline up.

    balanced: autoencoder and denoiser recompute their activations in the backward pass. low: also images decoded one
    by one, large ones in tiles; text encoders stay on the CPU between uses. Attention in slices would take more than
    the fused kernels of torch.
    """
    _recompute_layers(pipe.vae.decoder, wanted=memory != "fast")
    if memory == "fast":
        return
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    if getattr(denoiser, "_supports_gradient_checkpointing", False):
        denoiser.enable_gradient_checkpointing()
    if memory == "low":
        pipe.vae.enable_slicing()
        pipe.vae.enable_tiling()


def _recompute_layers(decoder: torch.nn.Module, *, wanted: bool) -> None:
    """Let each layer of a decoder of images keep its input alone, and run once more in the backward pass; or not.

    diffusers does so with whole blocks of them, whose activations take twice the memory.
    """
    from diffusers.models.autoencoders.autoencoder_dc import DCUpBlock2d, EfficientViTBlock, ResBlock
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

    layers = (ResnetBlock2D, Upsample2D, ResBlock, EfficientViTBlock, DCUpBlock2d)
    for layer in decoder.modules():
        if isinstance(layer, layers):
            vars(layer).pop("forward", None)
            if wanted:
                layer.forward = _recomputed(layer.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        return forward(*args, **kwargs)

    return run


Purpose = Literal["update", "inversion", "generate", "decode", "decode_gradient"]
"""What memory is needed for.

The denoiser with gradient: `update` by the guide, `inversion` by photos. `generate`: the denoiser without. Images
decoded: `decode` without gradient, `decode_gradient` with it, and shown to the guide.
"""

_PIXELS_AT_ONCE: Mapping[Purpose, int] = {
    "update": 2**20,
    "inversion": 2**20,
    "generate": 2**21,
    "decode": 2**19,
    "decode_gradient": 2**18,
}
"""Of images of 512 x 512 these are 4, 4, 8, 2, and 1: enough to keep a GPU busy, in half of the memory that the
paper's loop takes for one (`benchmarks.memory_needs`)."""


class BatchSizes:
    """How many images are done at once for each purpose; a model keeps it, so that no one finds out twice.

    Args:
        image_size: side of the model's images in pixels; without, only memory limits them.

    Attributes:
        fitted: whether they were made for the memory of the device with a guide, without one, or both.
    """

    def __init__(self, image_size: int | None = None) -> None:
        self._most: dict[Purpose, int] = {}
        self.fitted: set[bool] = set()
        if image_size is not None:
            self._most = {purpose: max(pixels // image_size**2, 1) for purpose, pixels in _PIXELS_AT_ONCE.items()}

    def at_most(self, purpose: Purpose, count: int) -> int:
        """Return `count`, or what memory holds of it."""
        return min(count, self._most.get(purpose, count))

    def limit(self, purpose: Purpose, count: int) -> None:
        """Note that no more than `count` fit, and one at least."""
        self._most[purpose] = max(self.at_most(purpose, count), 1)


class ShrinkingBatches:
    """Works through items in batches; where memory runs out, the batch is halved, for good.

    Args:
        count: how many images are done at once, at most.
        noun: the word for an item, for messages.
        on_progress: hears of each halving.
        sizes: those of the model, which remember a halving; its own if not given.
        purpose: what of them this work is.
        images_per_item: how much of `count` an item is.
    """

    def __init__(
        self,
        count: int,
        noun: str,
        on_progress: ProgressCallback = ignore_progress,
        *,
        sizes: BatchSizes | None = None,
        purpose: Purpose = "generate",
        images_per_item: int = 1,
    ) -> None:
        self._count, self._noun, self._on_progress = count, noun, on_progress
        self._sizes, self._purpose, self._images_per_item = sizes or BatchSizes(), purpose, images_per_item

    @property
    def size(self) -> int:
        """How many items are done at once, 1 or more."""
        return max(self._sizes.at_most(self._purpose, self._count) // self._images_per_item, 1)

    def run(self, items: Sequence[T], work: Callable[[Sequence[T]], R]) -> Iterator[tuple[Sequence[T], R]]:
        """Each batch of items with what `work` made of it, in order. `work` may be called again for the same items.

        Raises:
            DctAugmentError: memory runs out with a single item.
        """
        while len(items):
            batch = items[: self.size]
            try:
                result = work(batch)
            except (RuntimeError, MemoryError) as error:
                self._halve(len(batch), error)
            else:
                yield batch, result
                items = items[len(batch) :]
                continue
            # Only here is the error gone, and with it the tensors that its traceback kept.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._on_progress(
                Progress("memory", 0, 0, f"out of memory: going on with {counted(self.size, self._noun)} at once")
            )

    def _halve(self, size: int, error: RuntimeError | MemoryError) -> None:
        """Halve the batches after one of this size ran out of memory; raise any other error."""
        if not is_out_of_memory(error):
            raise error
        if size == 1:
            advice = "set model.memory=low, model.dtype=float16 on a GPU, or choose a smaller model"
            raise DctAugmentError(f"out of memory with a single {self._noun}: {advice}") from error
        self._sizes.limit(self._purpose, size // 2 * self._images_per_item)
