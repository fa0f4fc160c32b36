"""Units that processes do side by side: the same results as one process, and clear words when one of them dies."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dct_augment import config as configuration
from dct_augment.config import Config
from dct_augment.errors import ConfigError, DctAugmentError
from dct_augment.pipeline import unit_pool
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import TokenStage
from dct_augment.pipeline.unit_pool import UnitPool, processes_for, threads_of_units
from dct_augment.records import Progress
from tests import tiny

GB = 10**9
SMALL = (
    *tiny.TWO_UPDATES,
    "tokens.classes_per_work_unit=1",
    "generation.per_class=2",
    "generation.allow_uncertified=true",
    "generation.shard_size=2",
)


def small(root: Path, processes: int) -> Config:
    changes = [*SMALL, f"runner.processes={processes}"]
    return configuration.load("pocket", changes, classes=["crane", "kiwi"], output=root)


def of(model: str, *changes: str) -> Config:
    return configuration.load("pocket", [f"model.path={model}", *changes])


@pytest.mark.parametrize(
    ("config", "device", "sizes", "count"),
    [
        (of("pocket"), "cpu", [320, 320], 2),
        (of("pocket"), "cpu", [320, 320, 320], 3),
        (of("pocket"), "cpu", [320] * 10, 4),  # as many as there are cores
        (of("pocket"), "cpu", [640], 1),
        (of("pocket"), "cpu", [4, 4], 1),  # a process is not there before the work is done
        (of("pocket"), "cuda", [320, 320], 1),
        (of("someone/large"), "cpu", [320, 320], 1),
        (of("someone/large", "runner.processes=3"), "cpu", [4] * 5, 3),
        (of("someone/large", "runner.processes=3"), "cuda", [4] * 5, 1),
        (of("pocket", "runner.processes=1"), "cpu", [320, 320], 1),
    ],
)
def test_processes_are_for_small_models_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, config: Config, device: str, sizes: list[int], count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    monkeypatch.setattr(unit_pool, "free_bytes", lambda _: 100 * GB)
    assert processes_for(config, device, sizes) == count


def test_no_more_processes_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    for free, count in ((5 * GB, 2), (1 * GB, 1)):
        monkeypatch.setattr(unit_pool, "free_bytes", lambda _, free=free: free)
        assert processes_for(of("pocket"), "cpu", [320] * 9) == count


def test_units_have_one_thread_where_processes_may_do_them() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for config, device, threads in ((of("pocket"), "cpu", 1), (of("x/large"), "cpu", 2), (of("pocket"), "cuda", 2)):
            with threads_of_units(config, device):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_processes_are_for_runs_without_a_cluster() -> None:
    with pytest.raises(ConfigError, match="processes is for kind: thread"):
        configuration.load("pocket", ["runner.kind=dask", "runner.processes=2"])


@pytest.mark.slow
def test_processes_make_what_one_process_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    pools = list[UnitPool]()

    class Counted(UnitPool):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            pools.append(self)

    monkeypatch.setattr(unit_pool, "UnitPool", Counted)
    Run(small(tmp_path / "one", 1)).generate()
    Run(small(tmp_path / "two", 2), told.append).generate()

    made = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.[st]a*"))
    assert {path.suffix for path in made} == {".safetensors", ".tar"}
    assert len(made) == 4
    for path in made:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path
    tokens = [progress for progress in told if progress.stage == "tokens"]
    assert [progress.done for progress in tokens] == sorted(progress.done for progress in tokens)
    assert (tokens[-1].done, tokens[-1].total) == (4, 4)
    remarks = [progress for progress in told if not progress.total]
    assert len(remarks) == len(set(remarks))
    assert any(remark.stage == "model" for remark in remarks)
    assert len(pools) == 1  # processes keep their models from tokens to images


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail(*_: Any) -> None:
    raise DctAugmentError("of this unit")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "said"),
    [(_die, r"one of 2 processes died.*--set runner\.processes=1"), (_fail, "^of this unit$")],
)
def test_a_unit_that_fails_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: Callable[..., None], said: str
) -> None:
    run = Run(small(tmp_path, 2))
    monkeypatch.setattr(unit_pool, "_do", does)
    with pytest.raises(DctAugmentError, match=said):
        run.run_stages([TokenStage(run)])
