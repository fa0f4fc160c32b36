"""The report of a run, put together from the files of its stages."""

import importlib.metadata
import platform
from pathlib import Path

import pandas as pd

from dct_augment import files, tables
from dct_augment.benchmark import arm_comparisons
from dct_augment.errors import StaleRunError
from dct_augment.metrics.accuracy import class_titles
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.stages import ClassifierStage, TokenStage, TrialStage
from dct_augment.pipeline.verify.result_files import metrics_agree
from dct_augment.records import Progress, StageName
from dct_augment.report.real_images import RealImageSection, load_section
from dct_augment.tokens.files import INDEX
from dct_augment.wording import command_of

PACKAGES = ("torch", "diffusers", "transformers", "timm", "webdataset", "pandas", "pyarrow")


class Report:
    """What there is of a run, for its page; says what of it is damaged, or was made with other settings.

    Args:
        context: of the run.
    """

    def __init__(self, context: RunContext) -> None:
        self._context, self._config = context, context.config
        if any((self._config.root / "benchmark" / "trials").glob("*.json")):
            _ = context.data  # which trials are of today's images is known after a look
        self._trials = TrialStage(context)
        self._comparisons = arm_comparisons.summarize_trials(
            self._trials.trials().drop(columns="identity"),
            class_titles(context.classes),
            self._config.benchmark.shot_count,
            self._config.benchmark.per_class,
            self._config.benchmark.folds if self._config.benchmark.protocol == "cross_validation" else None,
        )
        self._remark = self._trials.others().remark(self._config.root)
        if self._remark:
            context.progress(Progress(StageName.REPORT, 0, 0, self._remark))
        if context.tokens.has_damaged_index or not context.tokens.index_agrees:
            path = context.tokens.path / INDEX
            context.progress(Progress("tokens", 0, 0, f"{path} is damaged; it is made again"))
            TokenStage(context).publish()
        context.pull_images()

    def write(self) -> Path:
        """Write the numbers and the page; return the page."""
        from dct_augment.report.page import write_report  # Matplotlib takes long to import

        context = self._context
        return write_report(
            self._config.root,
            config=self._config,
            classes=context.classes,
            environment=self._environment(),
            tokens=context.tokens.index(),
            shards=context.shards,
            benchmark={**self._comparisons, "guide_saw": context.guide_saw},
            metrics=self._metrics(),
            filtered=self._trials.filtered,
            real_images=self._real_image_section(),
            other_trials=self._remark,
            answer=ClassifierStage(context).answer_section(),
        )

    def _real_image_section(self) -> RealImageSection | None:
        """Read what the last look at the data set found; None if there was none, or its file is damaged."""
        path = self._config.root / "data" / "overview.json"
        if not path.is_file():
            return None
        try:
            return load_section(files.load_json(path), self._context.dataset)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            again = command_of("data", self._config.root)
            self._context.progress(Progress("data", 0, 0, f"{path} is damaged; `{again}` makes it again"))
            return None

    def _metrics(self) -> pd.DataFrame:
        """Read the table of metrics; empty where they have not been measured."""
        path = self._config.root / "benchmark" / "metrics.parquet"
        stored = tables.read(path)
        if path.exists() and not (stored is not None and metrics_agree(stored.to_pandas(), path.parent / "metrics")):
            stored = None
            again = command_of("benchmark", self._config.root)
            self._context.progress(Progress(StageName.REPORT, 0, 0, f"{path} is damaged; `{again}` makes it again"))
        return pd.DataFrame() if stored is None else stored.to_pandas()

    def _environment(self) -> dict[str, str]:
        """What a report says of where it was made; times are in `times.json` alone, so that reports can be compared."""
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        python = platform.python_version()
        return {"run": self._config.name, "device": self._context.device, "python": python, **versions}


def refuse_other_trials(context: RunContext) -> None:
    """Check that a report would show trials, if there are any and there is a report.

    Raises:
        StaleRunError: all recorded trials were made with other settings or images.
    """
    trials = TrialStage(context)
    page = context.config.root / "report" / "index.html"
    others = trials.others()
    if page.is_file() and trials.trials().empty and others.count:
        own, remark = command_of("report", context.config.root), others.remark(context.config.root)
        raise StaleRunError(f"{remark} {page} stays as it is. With those settings: {own}")
