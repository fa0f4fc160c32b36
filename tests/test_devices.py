"""Names of devices: those of this machine are taken, all others refused before any work."""

import pytest
import torch

from dct_augment.devices import resolve_device
from dct_augment.errors import InputError


def test_auto_is_what_this_machine_has() -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["meta", "hpu", "xla", "mps", "vulkan", "lazy", "gpu7", "", "cpu:x"])
def test_a_device_that_cannot_compute_here_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"device '{name}' is not available here: .*Use auto, cpu, or cuda") as refused:
        resolve_device(name)
    assert "Facebook" not in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"device 'cuda' is not available here: .*cuda"):
        resolve_device("cuda")
