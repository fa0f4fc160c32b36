"""Where the units of a flow are done: here, or by the processes of a Dask or Ray cluster.

Prefect's task runners move them. Each worker process does one unit at a time and keeps its models; with GPUs, a worker
process has one, and a unit takes it.
"""

import importlib.util
import logging
import os
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, nullcontext
from functools import cached_property
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import torch
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from dct_augment.config import Config
from dct_augment.errors import InputError
from dct_augment.pipeline.stages import Stage
from dct_augment.records import WorkUnit
from dct_augment.wording import agreeing, counted, reason_of
from flows.server import HOST
from flows.workers import Job

_ANSWER_WITHIN = 20  # seconds, of a cluster of others

TaskOf = Callable[[WorkUnit], Task[[WorkUnit, Job], None]]
"""The Prefect task that does a unit."""

Outcome = tuple[WorkUnit, Exception | None]
"""A unit that has ended, and why it failed if it did."""

Outcomes = Generator[Outcome, None, None]


class Runner(ABC):
    """Does the units of one flow run, stage after stage. A context manager."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._open = ExitStack()

    @abstractmethod
    def outcomes(self, stage: Stage, units: Sequence[WorkUnit], task_of: TaskOf, job: Job) -> Outcomes:
        """Do all units of a stage; yield each as it ends. Closing the iterator begins no more."""

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


class InProcess(Runner):
    """`thread`: one GPU, or a laptop. Units run in this process, one after the other, or side by side on a CPU."""

    def outcomes(self, stage: Stage, units: Sequence[WorkUnit], task_of: TaskOf, job: Job) -> Outcomes:
        """Do the units here, so that Ctrl-C stops the one at work at once."""
        count = stage.side_by_side(units)
        if count > 1:
            # Inner first: when a stop arrives, the processes end, and then the threads that wait for them.
            threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=count)
            with threads, stage.worker_pool(count):
                yield from _keep_submitted(
                    units, lambda unit: threads.submit(task_of(unit), _call(unit, job)), lambda: count
                )
            return
        for unit in units:
            yield unit, _error(lambda one=unit: task_of(one)(one, job))  # type: ignore[misc]


class Cluster(Runner):
    """Units in worker processes; the cluster starts with the first unit of a flow and ends with the flow."""

    @abstractmethod
    def _start(self) -> TaskRunner[Any]:
        """The task runner, at work; `self._open` ends it."""

    @abstractmethod
    def _workers(self) -> int:
        """How many there are now."""

    def _options(self) -> Any:
        """A context in which a submitted unit takes a whole GPU."""
        return nullcontext()

    @cached_property
    def _runner(self) -> TaskRunner[Any]:
        # Workers need the address of the server that this flow reports to, temporary or not.
        url = str(get_client(sync_client=True).api_url)
        self._open.enter_context(temporary_settings({PREFECT_API_URL: url}))
        return self._start()

    @cached_property
    def _gpus(self) -> list[str]:
        """The GPUs of this machine that this process may use."""
        if self._config.device == "cpu" or not torch.cuda.is_available():
            return []
        if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
            return [name for name in visible.split(",") if name]
        return [str(number) for number in range(torch.cuda.device_count())]

    def _processes(self) -> int:
        """How many processes a cluster of our own has.

        Raises:
            InputError: more than there are GPUs.
        """
        wanted, gpus = self._config.runner.workers, len(self._gpus)
        if wanted and gpus and wanted > gpus:
            raise InputError(
                f"runner.workers is {wanted}, but there {agreeing(gpus, 'is')} {counted(gpus, 'GPU')}, and a worker "
                "takes one; leave it out to use all"
            )
        return wanted or gpus or 2

    def _threads(self) -> str:
        """OMP_NUM_THREADS of a process of our own: the cores shared out, unless the user has said."""
        return os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // self._processes()))

    def outcomes(self, stage: Stage, units: Sequence[WorkUnit], task_of: TaskOf, job: Job) -> Outcomes:
        """Hand the units out, two to a worker, so that none waits for the next and a stop leaves few behind."""
        runner = self._runner
        with self._options():
            yield from _keep_submitted(
                units, lambda unit: runner.submit(task_of(unit), _call(unit, job)), lambda: 2 * self._workers()
            )


class Dask(Cluster):
    """`dask`: several GPUs, several machines."""

    def _start(self) -> TaskRunner[Any]:
        _need("prefect_dask", "dask")
        from prefect_dask.task_runners import DaskTaskRunner

        address = self._config.runner.address
        if not address:
            runner = self._open.enter_context(DaskTaskRunner(cluster=self._cluster()))
            self._client = runner.client
            return runner
        _reachable(address)
        runner = self._open.enter_context(
            DaskTaskRunner(
                address=address if "://" in address else f"tcp://{address}", client_kwargs={"timeout": _ANSWER_WITHIN}
            )
        )
        try:
            self._client = runner.client
            self._client.wait_for_workers(1, timeout=_ANSWER_WITHIN)
        except TimeoutError as error:
            raise InputError(
                f"runner.address {address!r} has no workers; start some: dask worker {address} --nthreads 1"
            ) from error
        except OSError as error:
            raise InputError(
                f"runner.address {address!r}: no Dask scheduler answers ({reason_of(error)}). Start one with "
                "`dask scheduler`, or leave runner.address out for workers of this run's own"
            ) from error
        if self._config.device.startswith("cuda") and not self._on_gpus:
            raise InputError(
                f"device is {self._config.device!r}, but no worker at {address!r} offers a GPU; start one per GPU: "
                f"CUDA_VISIBLE_DEVICES=0 dask worker {address} --nthreads 1 --resources GPU=1"
            )
        return runner

    def _cluster(self) -> Any:
        """A cluster on this machine, one process per GPU."""
        import dask
        from distributed import Nanny, Scheduler, SpecCluster

        def worker(number: int) -> dict[str, Any]:
            environment = {"OMP_NUM_THREADS": self._threads(), "MKL_NUM_THREADS": self._threads()}
            if self._gpus:
                environment["CUDA_VISIBLE_DEVICES"] = self._gpus[number]
            # No limit of Dask's on memory: what a worker holds are models, and it is not to be killed for them.
            options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "env": environment, "host": HOST}
            options |= {"silence_logs": logging.WARNING}
            return {"cls": Nanny, "options": options | ({"resources": {"GPU": 1}} if self._gpus else {})}

        # Daemons may have no processes that read pictures for them.
        self._open.enter_context(dask.config.set({"distributed.worker.daemon": False}))
        scheduler = {"host": HOST, "port": 0, "dashboard_address": None}
        return self._open.enter_context(
            SpecCluster(
                scheduler={"cls": Scheduler, "options": scheduler},
                workers={number: worker(number) for number in range(self._processes())},
                silence_logs=logging.WARNING,
            )
        )

    @property
    def _on_gpus(self) -> bool:
        """Whether the workers offer GPUs."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return self._config.device != "cpu" and any(worker["resources"].get("GPU") for worker in workers)

    def _workers(self) -> int:
        return max(1, len(self._client.ncores()))

    def _options(self) -> Any:
        import dask

        return dask.annotate(resources={"GPU": 1}) if self._on_gpus else nullcontext()


class Ray(Cluster):
    """`ray`: where there is a Ray cluster already."""

    def _start(self) -> TaskRunner[Any]:
        _need("prefect_ray", "ray")
        if not self._config.runner.address:
            # It listens on all addresses, and obeys those who know its token; to be set before it is imported.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        import ray
        from prefect_ray.task_runners import RayTaskRunner

        address = self._config.runner.address
        init: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
        if address:
            _reachable(address)
        else:
            threads = {"OMP_NUM_THREADS": self._threads(), "MKL_NUM_THREADS": self._threads()}
            init |= {"num_cpus": self._processes(), "num_gpus": len(self._gpus), "include_dashboard": False}
            init["runtime_env"] = {"env_vars": threads}
        self._ray = ray
        try:
            return self._open.enter_context(RayTaskRunner(address=address, init_kwargs=init))
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:
            raise InputError(
                f"runner.address {address!r}: no Ray cluster answers ({reason_of(error)}). Start one with "
                "`ray start --head`, or leave runner.address out for workers of this run's own. One that runs wants "
                "its token (`ray get-auth-token` on its head): set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here and on "
                "every node"
            ) from error

    def _workers(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("GPU" if self._on_gpus else "CPU", 1)))

    @property
    def _on_gpus(self) -> bool:
        return self._config.device != "cpu" and self._ray.cluster_resources().get("GPU", 0) > 0

    def _options(self) -> Any:
        from prefect_ray.context import remote_options

        # With a GPU, Ray would end a process after each unit, and its models with it.
        return remote_options(num_gpus=1, max_calls=0) if self._on_gpus else remote_options(num_cpus=1)


KINDS: dict[str, type[Runner]] = {"thread": InProcess, "dask": Dask, "ray": Ray}


def make(config: Config) -> Runner:
    """The runner that `runner.kind` names."""
    return KINDS[config.runner.kind](config)


def _call(unit: WorkUnit, job: Job) -> dict[str, Any]:
    return {"unit": unit, "job": job}


def _error(result: Callable[[], object]) -> Exception | None:
    try:
        result()
    except Exception as error:
        return error
    return None


def _keep_submitted(
    units: Sequence[WorkUnit], submit: Callable[[WorkUnit], PrefectFuture[Any]], width: Callable[[], int]
) -> Outcomes:
    """Keep at most `width()` units submitted, so that a stop, or bad input, leaves few to wait for."""
    waiting, running = deque(units), dict[PrefectFuture[Any], WorkUnit]()
    ended: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    while waiting or running:
        while waiting and len(running) < width():
            unit = waiting.popleft()
            future = submit(unit)
            running[future] = unit
            future.add_done_callback(ended.put)
        future = ended.get()
        yield running.pop(future), _error(future.result)


def _need(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise InputError(f"runner.kind {extra!r} needs another package: pip install 'dct-augment[{extra}]'")


def _reachable(address: str) -> None:
    """Workers report to the Prefect server themselves: on other machines they need one that they can reach.

    Raises:
        InputError: the cluster is elsewhere, and the server on this machine alone.
    """
    url = str(get_client(sync_client=True).api_url)
    if _host(address) not in _HERE and _host(url) in _HERE:
        raise InputError(
            f"runner.address {address!r} is another machine, and its workers cannot reach the Prefect server {url}. "
            "Start one with `prefect server start --host 0.0.0.0`, and set PREFECT_API_URL to http://THIS_HOST:4200/api"
        )


_HERE = ("127.0.0.1", "localhost", "::1", "auto")


def _host(address: str) -> str:
    return urlsplit(address if "://" in address else f"//{address}").hostname or address
