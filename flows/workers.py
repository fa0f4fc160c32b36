"""What a process that does units keeps between them: one run with its loaded models, and its stages."""

import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger

import dct_augment
from dct_augment import config as configuration
from dct_augment.config import Config
from dct_augment.errors import InputError
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import STAGES, Stage
from dct_augment.pipeline.unit_pool import threads_of_units
from dct_augment.records import Progress, ProgressCallback, StageName, WorkUnit, ignore_progress


@dataclass(frozen=True)
class Job:
    """To which run a unit belongs, as any process can be told: `name` is unique to one flow run, `folder` its cwd.

    `lease` is the number under which the flow holds a run that is on a store.
    """

    name: str
    config: Mapping[str, Any]
    folder: str
    lease: int = 0
    version: str = dct_augment.__version__


class Session:
    """The run of one job in this process."""

    def __init__(self, run: Run, on_progress: ProgressCallback = ignore_progress) -> None:
        self.run, self.on_progress = run, on_progress
        self._stages: dict[StageName, Stage] = {}

    def use_stage(self, stage: Stage) -> None:
        """Use a stage that has been made already for its units."""
        self._stages[stage.name] = stage

    def do(self, unit: WorkUnit) -> None:
        """Do one unit."""
        if unit.stage not in self._stages:
            self._stages[unit.stage] = STAGES[unit.stage](self.run)
        self._stages[unit.stage].do(unit, self.on_progress)


local: dict[str, Session] = {}
"""The sessions of flows that run in this very process, by job name."""

_lock = threading.Lock()
_remote_session: tuple[str, Session] | None = None  # the session of the flow elsewhere that this process works for


def do(unit: WorkUnit, job: Job) -> None:
    """Do one unit of a job.

    Raises:
        InputError: this process does not see the run's folder, or has another version of the package.
    """
    if job.name in local:
        local[job.name].do(unit)
        return
    with _lock:  # one at a time, however many threads a worker has: models and random generators are not shared
        session = _session_of(job)
        session.run.store.work_for(job.lease)
        session.run.store.pull()
        with threads_of_units(session.run.config, session.run.device):
            session.do(unit)


def _session_of(job: Job) -> Session:
    global _remote_session
    if _remote_session and _remote_session[0] == job.name:
        return _remote_session[1]
    config = _check(job)
    run = Run(config, _log)
    if _remote_session:
        run.reuse_models(_remote_session[1].run)
    _remote_session = (job.name, Session(run))
    return _remote_session[1]


def _check(job: Job) -> Config:
    """Go to the folder of a job; see that it is the same one as the flow's. A run on a store needs no such folder."""
    here = f"the worker on {socket.gethostname()}"
    if job.version != dct_augment.__version__:
        raise InputError(
            f"{here} has dct-augment {dct_augment.__version__}, the flow has {job.version}; install the same everywhere"
        )
    config = Config.model_validate(job.config)
    try:
        os.chdir(job.folder)
    except OSError as error:
        if config.url is not None:
            return config
        raise InputError(
            f"{here} cannot enter the flow's folder {job.folder!r}: {error.strerror}. Workers need to see the same "
            "files under the same path as the flow, or the run is on a store: --output s3://BUCKET/RUN"
        ) from error
    if config.url is not None:
        return config
    recorded = config.root / "config.yaml"
    if not recorded.is_file() or recorded.read_text(encoding="utf-8") != configuration.recorded(config):
        raise InputError(
            f"{here} does not see the run folder {str(Path(job.folder) / config.root)!r} that the flow works in. "
            "Put it on storage that the workers share with the flow, and name it with output: a folder, or s3://BUCKET/RUN"
        )
    return config


def _log(progress: Progress) -> None:
    """Remarks of a worker go to the log of the task it is doing."""
    if not progress.total:
        get_run_logger().info("%s: %s", progress.stage, progress.note)
