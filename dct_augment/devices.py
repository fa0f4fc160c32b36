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
        torch.zeros(1, device=name).item()  # one that holds no numbers, such as meta, is of no use
    except Exception as error:  # whatever a back-end that is not there raises
        # Of a kind that nobody has torch says much that helps nobody.
        is_known = name.partition(":")[0] in ("cpu", "cuda")
        reason = in_one_line(error) if is_known else "there is no such kind of device"
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
