"""Names of torch devices. torch is imported when first needed."""

from dct_augment.errors import InputError


def resolve_device(name: str) -> str:
    """Check a device name; `auto` becomes `cuda` or `cpu`.

    Raises:
        InputError: no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not available here: {error}. Use auto, cpu, or cuda") from error
    return name
