"""The flow `augment`: tokens, shards, benchmark, report. `python -m flows.augment pocket` runs it here.

What is done is decided by the files of the run, never by Prefect's cache: a run that was killed anywhere goes on by
running it again.
"""

import dataclasses
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from dct_augment import config as configuration
from dct_augment import stopping
from dct_augment.errors import DctAugmentError, InputError
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import Stage
from dct_augment.records import Progress, ProgressCallback, StageName, WorkUnit
from dct_augment.wording import counted_of, listed
from flows import artifacts, runners, server, transient, workers
from flows.runners import Runner
from flows.workers import Job

progress_listener: ContextVar[ProgressCallback | None] = ContextVar("progress_listener", default=None)
"""The callback that, beside Prefect, gets the progress of flows that run in this process: progress bars."""


@flow(name="augment", flow_run_name="{config}", validate_parameters=True, persist_result=False)
def augment(
    config: str = "pocket",
    per_class: int | None = None,
    classes: list[str] | None = None,
    output: str | None = None,
    overrides: list[str] | None = None,
    full: bool = False,
) -> str:
    """Train tokens, generate images, benchmark a classifier with and without them; return the report's path.

    Args:
        config: name of a configuration (pocket, digits, cub, ...), or path to a YAML file.
        per_class: images per class; as configured if not given.
        classes: only these classes, by name or slug.
        output: run folder; `runs/<name>` if not given.
        overrides: further settings, e.g. `tokens.max_updates=80`.
        full: the whole benchmark: all arms, ratios and curves, six seeds; 200 images a class if not said otherwise.

    Raises:
        InputError: a parameter or setting cannot be used.
        TokenTrainingError: the training of classes failed, and `on_class_failure` is not `skip`; all else is done.
    """
    stop_when_the_worker_ends()
    folder = Path(output) if output else None  # a URL, too
    settings = configuration.load(
        config, overrides or [], full=full, per_class=per_class, classes=classes, output=folder
    )
    run = Run(settings, log_remark)
    with runners.make(settings) as runner:
        run_stages(run, run.stages(StageName.REPORT), runner)
    page = _task(StageName.REPORT, StageName.REPORT)(run.report)()
    artifacts.show(run, page)
    run.check()
    return str(page)


def run_stages(run: Run, stages: Iterable[Stage], runner: Runner) -> None:
    """Do what is missing in each stage, a Prefect task for each unit."""
    with _job(run) as job:
        run.run_stages(stages, lambda stage, units: _execute(run, stage, units, runner, _holding(run, job)))


def _holding(run: Run, job: Job) -> Job:
    """Tell workers under which number the flow holds the run, if that is on a store."""
    return dataclasses.replace(job, lease=run.store.lease)


def do(unit: WorkUnit, job: Job) -> None:
    """Do one unit of a job, wherever this is."""
    workers.do(unit, job)


def _execute(run: Run, stage: Stage, units: Sequence[WorkUnit], runner: Runner, job: Job) -> None:
    """Do all units of a stage; those that fail do not stop the others, except for bad input.

    Raises:
        InputError: bad input; no more units were begun.
        DctAugmentError: units failed; the others are done.
    """
    settings, failed = run.config.runner, dict[str, Exception]()
    progress = artifacts.StageProgress(run.config.name, stage.name, units, _progress)
    session = workers.local[job.name]
    session.use_stage(stage)
    session.on_progress = progress.within

    def task_of(unit: WorkUnit) -> Task[[WorkUnit, Job], None]:
        return _task(stage.name, unit.title, settings.retries, settings.retry_delay)(do)

    with closing(runner.outcomes(stage, units, task_of, job)) as outcomes:
        for unit, error in outcomes:
            if isinstance(error, InputError):
                raise error
            if error:
                failed[unit.title] = error
            progress.ended(unit)
    if failed:
        titles_by_reason: dict[str, list[str]] = {}
        for title, error in failed.items():
            titles_by_reason.setdefault(str(error), []).append(title)
        reasons = "; ".join(f"{listed(titles, 3)}: {reason}" for reason, titles in titles_by_reason.items())
        raise DctAugmentError(
            f"{stage.name}: {counted_of(len(failed), len(units), 'unit')} failed, the others are done. {reasons}. "
            "Run it again to go on"
        ) from next(iter(failed.values()))


def _task(name: str, title: str, retries: int = 0, delay: float = 0.0) -> Any:
    return task(
        name=name,
        task_run_name=title.replace("{", "{{").replace("}", "}}"),
        retries=retries,
        retry_delay_seconds=delay,
        retry_condition_fn=transient.retry,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@contextmanager
def _job(run: Run) -> Iterator[Job]:
    """What workers are told of this flow run; those in this process use its own `Run`."""
    job = Job(str(uuid4()), run.config.model_dump(mode="json"), os.getcwd())
    workers.local[job.name] = workers.Session(run)
    try:
        yield job
    finally:
        del workers.local[job.name]


def log_remark(progress: Progress) -> None:
    """Pass a remark on to the log of the flow, and all that is told outside of stages to the listener."""
    if not progress.total:
        get_run_logger().info("%s: %s", progress.stage, progress.note)
    _progress(progress)


def _progress(progress: Progress) -> None:
    if listener := progress_listener.get():
        listener(progress)


def stop_when_the_worker_ends() -> None:
    """In a process that a worker started for a flow run: end when the worker has died, and hold no GPU for nothing."""
    if "PREFECT__FLOW_RUN_ID" not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _WithoutTraceback(logging.Filter):
    """Errors raised on purpose are one message in the logs, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, DctAugmentError):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_WithoutTraceback())


def main() -> None:
    """Run the flow in this process, offline; the only argument is a configuration's name or path."""
    stopping.run(_main)


def _main() -> None:
    try:
        name = sys.argv[1] if len(sys.argv) > 1 else "pocket"
        settings = configuration.load(name)  # before a server is started for it
        server.ensure_server(settings.root, lambda line: print(line, file=sys.stderr))
        print("report:", augment(name))
    except DctAugmentError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    from flows.augment import main as imported  # tasks are sent to workers under this module's name, not __main__

    imported()
