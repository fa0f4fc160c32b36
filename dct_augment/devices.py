"""Names of torch devices, and whether their memory ran out. torch is imported when first needed."""

from dct_augment.errors import InputError
from dct_augment.wording import in_one_line


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
        words = in_one_line(error)
        unknown = "device string" in words.lower()  # then torch lists a dozen kinds, most of which nobody has
        reason = "there is no such kind of device" if unknown else words
        raise InputError(f"device {name!r} is not available here: {reason}. Use auto, cpu, or cuda") from error
    return name


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    # accelerate goes by the words of an error, which need not be those of torch's own class.
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and should_reduce_batch_size(error)
