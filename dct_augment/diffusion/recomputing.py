"""The gradient through a model that is on its device only while it works: it runs once more in the backward pass.

torch.utils.checkpoint will not do: its kind whose weights may go between the passes (reentrant) refuses
torch.autograd.grad.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils import _pytree as pytree  # what transformers registers its outputs with

Work = Callable[[torch.Tensor], Any]


def recomputed(ready: Callable[[], AbstractContextManager[Any]], work: Work, inputs: torch.Tensor) -> Any:
    """Return what `work` makes of the inputs; it is done again for the gradient of the inputs.

    Args:
        ready: has the model where it works, until it is left.
        work: makes tensors of the inputs, in any structure; it draws nothing at random, and its weights are frozen.
        inputs: a tensor that needs a gradient.
    """
    structure: list[Any] = []
    outputs = _Recomputed.apply(ready, work, structure, inputs)
    return pytree.tree_unflatten([*outputs], structure[0])


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ready: Any, work: Work, structure: list[Any], inputs: torch.Tensor) -> tuple[Any, ...]:
        ctx.set_materialize_grads(False)
        ctx.ready, ctx.work = ready, work
        ctx.save_for_backward(inputs)
        with ready():
            outputs, made = pytree.tree_flatten(work(inputs))
        structure.append(made)
        tensors = [output for output in outputs if isinstance(output, torch.Tensor)]
        kind = tensors[0].device.type
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.mark_non_differentiable(*(tensor for tensor in tensors if not tensor.is_floating_point()))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[Any, ...]:
        (inputs,) = ctx.saved_tensors
        kind, dtype, enabled = ctx.autocast
        with ctx.ready(), torch.enable_grad(), torch.autocast(kind, dtype, enabled=enabled):
            again = inputs.detach().requires_grad_()
            outputs, _ = pytree.tree_flatten(ctx.work(again))
            pairs = [(one, other) for one, other in zip(outputs, gradients, strict=True) if other is not None]
            reached, given = zip(*pairs, strict=True)
            (gradient,) = torch.autograd.grad(reached, again, given)
        return None, None, None, gradient
