"""The benchmark: one low-resource classifier, trained in several arms on paired few-shot draws.

Every arm takes the same number of gradient steps on batches of the same size; arms differ in their
images alone. The test split is read once, after the last step.
"""

import hashlib
import multiprocessing
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from timm.data import create_transform
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dct_augment import records
from dct_augment.config import BenchmarkConfig, seed_from
from dct_augment.datasets import few_shot
from dct_augment.errors import DctAugmentError, LeakError
from dct_augment.records import Split, Trial
from dct_augment.shards import PLAIN, TRAIN
from dct_augment.statistics import Estimate, mean_t
from dct_augment.training import Mixture, RealImages, SyntheticImages, Transform

SYNTHETIC = {"plain_prompt": PLAIN, "class_token": TRAIN}
"""Arms with synthetic images, and the shard split they use. They keep the strong augmentation."""


@dataclass(frozen=True)
class TrialPlan:
    """One trial to run: an arm on the few-shot draw of a seed."""

    arm: str
    seed: int


def plan(settings: BenchmarkConfig) -> tuple[TrialPlan, ...]:
    """Every (arm, seed) of the benchmark; the arms of one seed share their real images."""
    first = settings.seed
    return tuple(TrialPlan(arm, seed) for seed in range(first, first + settings.seeds) for arm in settings.arms)


class Benchmark:
    """Runs trials of one data set against one shard folder."""

    def __init__(self, dataset: records.Dataset, shards: Path, settings: BenchmarkConfig, device: str = "cpu") -> None:
        self._dataset, self._shards, self._settings, self._device = dataset, shards, settings, device
        self._tensors = Transforms(settings.image_size)
        self._test = _Memory(RealImages(dataset.examples("test"), self._tensors.plain))
        self._drawn: dict[str, Mapping[str, str]] = {}

    def trial(self, planned: TrialPlan) -> Trial:
        """Train one classifier from its seed and measure it on the test split, once.

        Raises:
            LeakError: a test image is among the training images, real or synthetic.
        """
        with _one_thread() if self._device == "cpu" else nullcontext():
            return self._trial(planned)

    def _trial(self, planned: TrialPlan) -> Trial:
        began, settings = time.monotonic(), self._settings
        split = few_shot(self._dataset, settings.shots, planned.seed, settings.imbalance)
        refuse_leaks(split, self._contents(planned.arm))
        model = self._fit(self._mixture(planned, split), planned)
        right = 0
        for images, labels in DataLoader(self._test, batch_size=128):
            right += int((model(images.to(self._device)).argmax(1).cpu() == labels).sum())
        accuracy = right / len(self._test)
        return Trial(planned.arm, settings.shots, planned.seed, settings.steps, accuracy, time.monotonic() - began)

    def _contents(self, arm: str) -> Mapping[str, str]:
        """Pixel hashes of the synthetic images of an arm, read once."""
        if arm not in SYNTHETIC:
            return {}
        if arm not in self._drawn:
            images = SyntheticImages(self._shards, SYNTHETIC[arm], per_class=self._settings.per_class)
            self._drawn[arm] = {_content(images[index][0]): key for index, key in enumerate(images.keys)}
        return self._drawn[arm]

    def _mixture(self, planned: TrialPlan, split: Split) -> Mixture:
        settings = self._settings
        transform = self._tensors.plain_train if planned.arm == "real" else self._tensors.strong
        synthetic = None
        if planned.arm in SYNTHETIC:
            synthetic = SyntheticImages(
                self._shards, SYNTHETIC[planned.arm], per_class=settings.per_class, transform=transform
            )
        return Mixture(
            RealImages(split.train, transform),
            synthetic,
            probability=settings.synthetic_probability,
            length=settings.steps * settings.batch_size,
            seed=seed_from("mixture", planned.seed),
        )

    def _fit(self, data: Mixture, planned: TrialPlan) -> nn.Module:
        settings = self._settings
        _seed_everything(seed_from("classifier", planned.seed) % 2**32)
        model = timm.create_model(
            settings.model,
            pretrained=settings.pretrained,
            num_classes=1 + max(info.index for info in self._dataset.classes),
        ).to(self._device)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.steps + 1
        )
        model.train()
        for images, labels in DataLoader(cast(Dataset[Any], data), batch_size=settings.batch_size):
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(model(images.to(self._device)), labels.to(self._device)).backward()
            optimizer.step()
            schedule.step()
        return model.eval().requires_grad_(False)


def _seed_everything(seed: int) -> None:
    """Seed all three generators: timm's transforms draw from `random` and NumPy, not from torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Transforms:
    """From an RGB picture to a tensor (3, H, W): plain for testing, light and strong for training."""

    def __init__(self, size: int) -> None:
        self.plain: Transform = create_transform(size, crop_pct=1.0)
        light = {"scale": (0.8, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "color_jitter": None}
        self.plain_train: Transform = create_transform(size, is_training=True, **light)
        self.strong: Transform = create_transform(
            size, is_training=True, auto_augment="rand-m7-n2-mstd0.5", re_prob=0.1, **(light | {"scale": (0.6, 1.0)})
        )


class _Memory(Dataset[tuple[torch.Tensor, int]]):
    """A data set read once and kept as tensors."""

    def __init__(self, source: RealImages) -> None:
        self._items = [source[index] for index in range(len(source))]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._items[index]


def refuse_leaks(split: Split, synthetic: Mapping[str, str] | None = None) -> None:
    """Compare pictures by content; `synthetic` gives the key of each further training picture by its hash.

    Raises:
        LeakError: a validation or test picture is also a training picture; names both keys.
    """
    training = dict(synthetic or {}) | {_content(example.open()): example.key for example in split.train}
    for name in ("val", "test"):
        for example in getattr(split, name):
            if (twin := training.get(_content(example.open()))) is not None:
                raise LeakError(f"{name} image {example.key!r} is the same picture as training image {twin!r}")


def _content(picture: Image.Image) -> str:
    return hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()


def arms(trials: pd.DataFrame) -> dict[str, Estimate]:
    """Mean test accuracy of each arm with its 95 % interval over seeds."""
    return {str(arm): mean_t(group["accuracy"].tolist()) for arm, group in trials.groupby("arm", sort=False)}


def paired(trials: pd.DataFrame, arm: str, baseline: str) -> Estimate | None:
    """Mean difference of two arms over the seeds they share; None if they share none."""
    table = trials.pivot_table(index="seed", columns="arm", values="accuracy")
    if arm not in table or baseline not in table:
        return None
    gaps = (table[arm] - table[baseline]).dropna()
    return mean_t(gaps.tolist()) if len(gaps) else None


def at_once(settings: BenchmarkConfig, device: str) -> int:
    """How many trials run side by side: on a CPU `processes`, one per core if unset; elsewhere one."""
    return (settings.processes or os.cpu_count() or 1) if device == "cpu" else 1


def run(
    dataset: records.Dataset,
    shards: Path,
    settings: BenchmarkConfig,
    plans: Sequence[TrialPlan],
    *,
    device: str = "cpu",
    processes: int = 1,
) -> Generator[Trial, None, None]:
    """Run trials, yielding them in order; on a CPU, `processes` of them side by side.

    A trial on a CPU takes one thread, so neither the machine's cores nor `processes` change its result.

    Raises:
        LeakError: a test image is among the training images.
        DctAugmentError: a process died.
    """
    processes = min(processes, len(plans)) if device == "cpu" else 1
    if processes <= 1:
        bench = Benchmark(dataset, shards, settings, device)
        yield from map(bench.trial, plans)
        return
    with SideBySide(dataset, shards, settings, processes) as others:
        yield from others.trials(plans)


class SideBySide:
    """Processes that run trials on a CPU, one thread each, for any thread of this one."""

    def __init__(self, dataset: records.Dataset, shards: Path, settings: BenchmarkConfig, processes: int) -> None:
        # A server forks them: it has imported torch but not used it, so no lock and no thread pool is inherited.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._strangers = set(multiprocessing.active_children())
        self._processes = processes
        self._pool = ProcessPoolExecutor(processes, context, _prepare, (dataset, shards, settings))

    def trial(self, planned: TrialPlan) -> Trial:
        """Run one trial; blocks.

        Raises:
            DctAugmentError: a process died.
        """
        (trial,) = self.trials([planned])
        return trial

    def trials(self, plans: Sequence[TrialPlan]) -> Iterator[Trial]:
        """Run trials, yielding them in order.

        Raises:
            DctAugmentError: a process died.
        """
        try:
            yield from self._pool.map(_trial, plans)
        except BrokenProcessPool as error:
            raise DctAugmentError(
                f"one of {self._processes} benchmark processes died, perhaps out of memory; finished trials are kept. "
                "Go on with fewer: --set benchmark.processes=1"
            ) from error

    def __enter__(self) -> "SideBySide":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the processes; at once, if something went wrong: the exit of Python would wait for them."""
        if kind is None:
            self._pool.shutdown()
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - self._strangers:
            child.terminate()


_bench: Benchmark | None = None  # of this process, if it is one of the side by side ones


def _prepare(dataset: records.Dataset, shards: Path, settings: BenchmarkConfig) -> None:
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    _bench = Benchmark(dataset, shards, settings)


def _leave_with_parent() -> None:
    """End this process when its parent has ended, however that came about."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _trial(planned: TrialPlan) -> Trial:
    return cast(Benchmark, _bench).trial(planned)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
