"""A run: the stages wired to one configuration and one folder. The CLI and the flows call this.

Each method reads the files of the stages before, makes them first if they are missing, does only what is not done,
and leaves files that say so. Where the units of a stage are done is the caller's choice: here, one after the other,
or wherever `execute` takes them.
"""

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from dct_augment import config as configuration
from dct_augment import files
from dct_augment.benchmark import arm_comparisons
from dct_augment.benchmark.arms import OWN_IMAGES, SYNTHETIC
from dct_augment.errors import TokenTrainingError
from dct_augment.generation import plan
from dct_augment.metrics.accuracy import class_titles
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.stages import ArmStage, ImageStage, MetricStage, Stage, TokenStage, TrialStage
from dct_augment.records import ClassInfo, ImageKind, WorkUnit
from dct_augment.report.page import write_report
from dct_augment.tokens import formats

PACKAGES = ("torch", "diffusers", "transformers", "timm", "webdataset", "pandas", "pyarrow")

Execute = Callable[[Stage, Sequence[WorkUnit]], None]
"""Does all the units of one stage, in whatever order and place."""


class Run(RunContext):
    """One configuration at work in one folder.

    Every method does what is missing and nothing that is done, so each may be called again.

    Args:
        config: a loaded configuration; its `root` is the run's folder.
        progress: receives the progress of every stage.

    Examples:
        >>> import dct_augment
        >>> run = dct_augment.Run(dct_augment.load_config("pocket", classes=["crane", "kiwi"]))
        >>> [info.name for info in run.classes]
        ['crane', 'kiwi']
    """

    def train(self) -> None:
        """Train the class tokens that are missing."""
        self.run_stages([TokenStage(self)])

    def generate(self) -> None:
        """Draw `generation.per_class` images of every class into shards, with its class token if that is certified."""
        self.run_stages(self.stages(ImageKind.CLASS_TOKEN))

    def generate_plain(self) -> None:
        """Draw as many images of every class with its plain prompt, from the same seeds."""
        self.run_stages(self.stages(ImageKind.PLAIN_PROMPT))

    def benchmark(self) -> None:
        """Run the trials that are missing, after the images they need."""
        self.run_stages(self.stages("benchmark"))

    def everything(self) -> Path:
        """All stages; return the report's page."""
        self.run_stages(self.stages("report"))
        return self.report()

    def stages(self, last: str) -> Iterator[Stage]:
        """The stages up to one of them, each made when those before it are done.

        A `benchmark` needs the images of its arms; a `report` shows those of the class tokens in any case.
        """
        arms = self.config.benchmark.arms
        drawn = {split for arm, split in SYNTHETIC.items() if arm in {*arms} - {*OWN_IMAGES}}
        split = {"benchmark": drawn, "report": drawn | {ImageKind.CLASS_TOKEN}}.get(last, {last})
        if last in ("benchmark", "report"):
            TrialStage(self).check()
        if ImageKind.CLASS_TOKEN in split:
            begun = {slug for spec in self.unfinished(ImageKind.CLASS_TOKEN) for slug in spec.ranges}
            yield TokenStage(self, [one for one in self.whole.classes if one in self.classes or one.slug in begun])
            yield ImageStage(self, ImageKind.CLASS_TOKEN)
        if ImageKind.PLAIN_PROMPT in split:
            yield ImageStage(self, ImageKind.PLAIN_PROMPT)
        if last in ("benchmark", "report"):
            if ImageKind.CLASS_TOKEN in split and not any(self.tokens.file(info).is_file() for info in self.classes):
                self.check()  # nothing to measure
            if set(arms) & set(OWN_IMAGES):
                yield ArmStage(self)
            yield TrialStage(self)
            yield MetricStage(self)

    def run_stages(self, stages: Iterable[Stage], execute: Execute | None = None) -> None:
        """Do what is missing in each stage, and write its index.

        Raises:
            BusyRunError: another process works in this folder.
        """
        with files.lock(self.config.root):
            for stage in stages:
                with self._working(stage.title):
                    units = stage.pending()
                    if units and execute:
                        execute(stage, units)
                    elif units:
                        stage.do_all(units, self.progress)
                    stage.publish()

    @contextmanager
    def _working(self, stage: str) -> Iterator[None]:
        """Record the configuration, and the time that a stage takes."""
        began = time.monotonic()
        with files.lock(self.config.root):
            files.sweep(self.config.root)
            files.write_text(self.config.root / "config.yaml", configuration.dump(self.config))
            yield
            times = self._times() | {stage: self._times().get(stage, 0.0) + time.monotonic() - began}
            files.write_text(self.config.root / "times.json", json.dumps(times) + "\n")

    def _times(self) -> dict[str, float]:
        """Seconds spent in each stage so far, over all commands."""
        path = self.config.root / "times.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def unfinished(self, kind: ImageKind) -> plan.Layout:
        """The shards that were planned before and are not written yet."""
        shards = self.shards[kind]
        return tuple(spec for spec in shards.layout() if not shards.digest(spec))

    def import_token(
        self, token: formats.Token, info: ClassInfo, *, any_model: bool = False, replace: bool = False
    ) -> None:
        """Take in a token from elsewhere as that of a class of this run.

        Raises:
            InputError: it does not fit (`TokenFolder.import_token`).
        """
        identity = self.config.identity("tokens")
        with self._working("tokens"):
            self.tokens.import_token(token, info, identity, self.base_model, any_model=any_model, replace=replace)
            TokenStage(self).publish()

    @property
    def failed(self) -> dict[str, str]:
        """The chosen classes for which no usable token could be trained, and why."""
        return TokenStage(self).failed()

    def check(self) -> None:
        """Say which classes got no token.

        Raises:
            TokenTrainingError: there are such classes, and `on_class_failure` is not `skip`; the others are done.
        """
        failed = self.failed
        if failed and self.config.on_class_failure == "fail":
            reasons = ", ".join(f"{name} ({reason})" for name, reason in failed.items())
            raise TokenTrainingError(
                f"no class token for {len(failed)} of {len(self.classes)} classes: {reasons}. The others are done. Try "
                "other settings for these with another --output, e.g. --set tokens.seed=1, or set on_class_failure=skip"
            )

    def report(self) -> Path:
        """Write the report of what there is; return the page."""
        with self._working("report"):
            return write_report(
                self.config.root,
                config=self.config,
                classes=self.classes,
                environment=self._facts(),
                tokens=self.tokens.index(),
                shards=self.shards,
                benchmark=arm_comparisons.summarize_trials(
                    TrialStage(self).trials().drop(columns="identity"),
                    class_titles(self.classes),
                    self.config.benchmark.shots,
                    self.config.benchmark.per_class,
                ),
                metrics=self._measured("metrics.parquet"),
                filtered=TrialStage(self).filtered(),
            )

    def _measured(self, name: str) -> pd.DataFrame:
        """A table of the benchmark's folder; empty where it has not been made."""
        path = self.config.root / "benchmark" / name
        return pd.read_parquet(path) if path.is_file() else pd.DataFrame()

    def _facts(self) -> dict[str, str]:
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        seconds = {f"seconds, {stage}": f"{spent:.0f}" for stage, spent in self._times().items()}
        return {
            "run": self.config.name,
            "device": self.device,
            "python": platform.python_version(),
            **versions,
            **seconds,
        }
