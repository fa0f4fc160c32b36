"""The flow `augment`: tokens, shards, benchmark, report. `python -m flows.augment pocket` runs it here.

What is done is decided by the files of the run, never by Prefect's cache.
"""

import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from dct_augment import config as configuration
from dct_augment.errors import DctAugmentError
from dct_augment.pipeline import Run


@task(name="class tokens", cache_policy=NO_CACHE)
def train_tokens(run: Run) -> None:
    """Train the missing class tokens."""
    run.train()
    if run.failed:
        get_run_logger().warning("no token for %s", ", ".join(run.failed))


@task(name="class-token images", cache_policy=NO_CACHE)
def draw_images(run: Run) -> None:
    """Draw the missing class-token images."""
    run.generate()


@task(name="plain-prompt images", cache_policy=NO_CACHE)
def draw_plain(run: Run) -> None:
    """Draw the missing plain-prompt images."""
    run.generate_plain()


@task(name="benchmark", cache_policy=NO_CACHE)
def run_trials(run: Run) -> None:
    """Run the missing trials."""
    run.benchmark()


@task(name="report", cache_policy=NO_CACHE)
def write_report(run: Run) -> str:
    """Write the report."""
    return str(run.report())


@flow(name="augment", validate_parameters=True)
def augment(
    config: str = "pocket",
    per_class: int | None = None,
    classes: list[str] | None = None,
    output: str | None = None,
    overrides: list[str] | None = None,
) -> str:
    """Augment one data set; returns the path of the report.

    `config` is a name or a path; `per_class` images a class; only `classes`, if given; into `output`;
    `overrides` are of the form `section.key=value`.
    """
    settings = configuration.load(
        config, overrides or [], per_class=per_class, classes=classes, output=Path(output) if output else None
    )
    run = Run(settings)
    train_tokens(run)
    draw_images(run)
    draw_plain(run)
    run_trials(run)
    page = write_report(run)
    run.check()
    return page


if __name__ == "__main__":
    try:
        print(augment(sys.argv[1] if len(sys.argv) > 1 else "pocket"))
    except DctAugmentError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
