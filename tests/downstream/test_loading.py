"""Training pictures come to the loop in the same order and form, whoever reads them."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dct_augment.config import DownstreamConfig
from dct_augment.downstream import loading, training
from dct_augment.downstream.in_memory import PicturesInMemory
from dct_augment.downstream.mixing import Mixture, RealImages
from dct_augment.downstream.transforms import Transforms
from dct_augment.errors import DctAugmentError, UnreadableImageError
from dct_augment.records import Example
from tests.conftest import speckled
from tests.random_generators import random_states

SETTINGS = DownstreamConfig(image_size=32, steps=3, batch_size=4, validation_rounds=1)


def with_workers(workers: int | None, **changes: Any) -> DownstreamConfig:
    return SETTINGS.model_copy(update={"workers": workers, **changes})


def pictures(openers: list[Callable[[], Image.Image]], most_bytes: int = 2**20) -> Mixture:
    examples = [Example(str(number), number % 3, opener) for number, opener in enumerate(openers)]
    images = PicturesInMemory(RealImages(examples), Transforms(SETTINGS).strong, side=32, most_bytes=most_bytes)
    return Mixture(images, length=SETTINGS.steps * SETTINGS.batch_size, seed=5)


def speckles(most_bytes: int = 2**20) -> Mixture:
    return pictures([partial(speckled, number % 3, number) for number in range(6)], most_bytes)


def unreadable() -> Image.Image:
    raise UnreadableImageError("cannot identify image file")


def deadly() -> Image.Image:
    os._exit(9)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield


def loaded(data: Mixture, settings: DownstreamConfig, state: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(state)
    return [(images, labels) for images, labels in loading.batches(data, settings, "cpu", seed=3)]


def same(one: list[tuple[torch.Tensor, torch.Tensor]], other: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return all(
        torch.equal(left, right)
        for pair, other_pair in zip(one, other, strict=True)
        for left, right in zip(pair, other_pair, strict=True)
    )


@pytest.mark.parametrize("workers", [None, 0])
def test_pictures_in_memory_are_drawn_on_a_cpu_as_by_a_plain_loader(workers: int | None) -> None:
    """Bit for bit: finished trials of studies were trained so."""
    torch.manual_seed(0)
    plain = [(images, labels) for images, labels in DataLoader(speckles(), batch_size=4)]  # type: ignore[arg-type]
    assert same(loaded(speckles(), with_workers(workers)), plain)


def test_pictures_that_do_not_fit_in_memory_are_drawn_by_seed_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "readers", lambda *_: 0)
    small = 3 * 16 * 16 * 6
    assert speckles(small).in_memory
    assert not speckles(small - 1).in_memory
    assert not same(loaded(speckles(), with_workers(None)), loaded(speckles(), with_workers(None), state=1))
    few = small - 1
    alone = [loaded(speckles(few), with_workers(None, batch_size=2), state) for state in (0, 1)]
    assert same(*alone)


def test_an_item_depends_on_seed_and_place_alone_and_leaves_the_generator() -> None:
    items = loading.ItemsOfOneSeed(speckles(), 3)
    before = random_states()
    last, first = items[11][0], items[0][0]
    assert random_states() == before
    torch.rand(5)
    again = loading.ItemsOfOneSeed(speckles(), 3)
    assert torch.equal(again[0][0], first)
    assert torch.equal(again[11][0], last)
    assert not torch.equal(loading.ItemsOfOneSeed(speckles(), 4)[0][0], first)


@pytest.mark.slow
def test_the_number_of_processes_changes_no_bit_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixup and dropout draw in this process meanwhile."""
    settings = with_workers(2, mixup=0.4, model="test_efficientnet")
    states = []
    for count in (0, 1, 2):
        monkeypatch.setattr(loading, "readers", lambda *_, count=count: count)
        fitted = training.fit(speckles(), settings, classes=3, seed=1, mixed=True)
        states.append(fitted.model.state_dict())
    for state in states[1:]:
        assert all(torch.equal(value, state[name]) for name, value in states[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_picture_that_cannot_be_read_elsewhere_is_one_message_without_traceback(workers: int) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        loaded(pictures([unreadable]), with_workers(workers))
    assert str(caught.value) == "cannot identify image file"


@pytest.mark.slow
def test_a_reading_process_that_dies_is_one_message() -> None:
    with pytest.raises(
        DctAugmentError, match=r"^one of 1 processes that read training pictures died.*--set downstream\.workers=1$"
    ):
        loaded(pictures([deadly]), with_workers(1))


@pytest.mark.parametrize(
    ("workers", "device", "cores", "count"),
    [
        (None, "cpu", 1, 0),
        (None, "cpu", 16, 1),  # trials run side by side
        (None, "cuda", 4, 3),
        (None, "cuda:1", 64, 8),
        (5, "cpu", 2, 5),
        (20, "cuda", 2, 20),
    ],
)
def test_processes_are_chosen_from_the_cores(
    monkeypatch: pytest.MonkeyPatch, workers: int | None, device: str, cores: int, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    assert loading.readers(with_workers(workers), device) == count


def test_no_more_processes_read_than_shared_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has 64 MB of it, if nothing else is said."""
    usage = shutil.disk_usage("/")._replace(free=64 * 2**20)
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda path: usage)
    assert loading.readers(with_workers(8, image_size=224, batch_size=32), "cuda") == 1
    assert loading.readers(with_workers(8, image_size=224, batch_size=64), "cuda") == 0


def test_a_daemon_reads_its_pictures_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert loading.readers(with_workers(4), "cuda") == 0
