"""The stage of benchmark trials."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dct_augment import config as configuration
from dct_augment import datasets, files
from dct_augment.benchmark import pool
from dct_augment.benchmark.arms import SYNTHETIC, ArmFolders, arm_folder
from dct_augment.benchmark.pool import TrialInputs, TrialPool
from dct_augment.benchmark.trials import TrialPlan, TrialRunner, plan_trials
from dct_augment.generation.filter import filter_images
from dct_augment.generation.shards import ShardFolder, shard_folder
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.records import ImageKind, Progress, ProgressCallback, Trial, WorkUnit, ignore_progress

_FACTS = ("arm", "shots", "seed", "per_class")


class TrialStage(Stage):
    """TrialRunner trials; a unit is one arm on one few-shot draw with a number of synthetic images."""

    name = title = "benchmark"

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._others: TrialPool | None = None

    @property
    def _plans(self) -> tuple[TrialPlan, ...]:
        return plan_trials(self._config.benchmark)

    def check(self) -> None:
        """See that there are enough real images for every draw.

        Raises:
            DatasetError: there are not.
        """
        settings = self._config.benchmark
        most = max(settings.shots, *settings.shots_curve, 0)
        datasets.few_shot(self._context.real_images(), most, settings.seed, settings.imbalance)

    def pending(self) -> tuple[WorkUnit, ...]:
        """The trials that are not recorded with today's settings and images; records what each seed draws."""
        known = {tuple(row[fact] for fact in _FACTS) for row in self.trials().to_dict("records")}
        todo = [
            WorkUnit("benchmark", number, one.title, 1)
            for number, one in enumerate(self._plans)
            if (one.arm, one.shots, one.seed, one.per_class) not in known
        ]
        if todo:
            self._record_splits()
            self._publish_filtered()
        return tuple(todo)

    def do(self, unit: WorkUnit, on_progress: ProgressCallback = ignore_progress) -> None:
        """Run one trial and record it; several threads may, within `trial_pool`."""
        planned = self._plans[unit.number]
        self._record(planned, self._others.trial(planned) if self._others else self._benchmark.trial(planned))

    def do_all(self, units: Sequence[WorkUnit], on_progress: ProgressCallback = ignore_progress) -> None:
        """Run trials here, as many at once as `benchmark.processes` says."""
        plans = [self._plans[unit.number] for unit in units]
        trials = pool.run(self._source(), plans, device=self._context.device, processes=self.max_parallel)
        # Closed at once when a stop arrives here: its processes would wait for work, and the exit for them.
        with closing(trials):
            for number, (planned, trial) in enumerate(zip(plans, trials, strict=True), 1):
                self._record(planned, trial)
                on_progress(Progress("benchmark", number, len(units), f"{trial.arm} {trial.accuracy:.1%}"))

    @property
    def max_parallel(self) -> int:
        """How many trials run side by side on this machine."""
        return pool.parallel_trials(self._config.benchmark, self._context.device)

    @contextmanager
    def trial_pool(self) -> Iterator[None]:
        """Give the trials that threads of this process ask for processes of their own, on a CPU."""
        if self.max_parallel == 1:
            yield
            return
        with TrialPool(self._source(), self.max_parallel) as self._others:
            yield

    def publish(self) -> None:
        """Write `benchmark/trials.parquet`: a row per trial."""
        trials = self.trials()
        if len(trials):
            with files.atomic(self._folder / "trials.parquet") as partial:
                trials.to_parquet(partial, index=False)

    def trials(self) -> pd.DataFrame:
        """The recorded trials of the plan that were made with today's settings and images."""
        rows = [
            row
            for planned in self._plans
            if self._file(planned).is_file()
            and (row := json.loads(self._file(planned).read_text(encoding="utf-8")))["identity"]
            == self._identity(planned)
        ]
        columns = [field.name for field in dataclasses.fields(Trial)]
        return pd.DataFrame(rows, columns=[*columns, "identity"]).astype({"val_accuracy": float})

    def filtered(self) -> pd.DataFrame:
        """What the filter makes of every class-token image; empty where no arm is filtered."""
        settings = self._config.benchmark
        if "class_token_filtered" not in settings.arms:
            return pd.DataFrame()
        return filter_images(self._context.shards[ImageKind.CLASS_TOKEN], settings.filter_confidence)

    def _publish_filtered(self) -> None:
        filtered = self.filtered()
        if len(filtered):
            with files.atomic(self._folder / "filter.parquet") as partial:
                filtered.to_parquet(partial, index=False)

    def _record(self, planned: TrialPlan, trial: Trial) -> None:
        row = dataclasses.asdict(trial) | {"identity": self._identity(planned)}
        if row["val_accuracy"] != row["val_accuracy"]:
            row["val_accuracy"] = None  # JSON has no NaN
        files.write_text(self._file(planned), json.dumps(row) + "\n")

    def _source(self) -> TrialInputs:
        filtered = self.filtered()
        accepted = frozenset(filtered.loc[filtered["accepted"], "key"]) if len(filtered) else frozenset()
        return TrialInputs(
            self._context.real_images(), self._homes, self._config.benchmark, self._config.downstream, accepted
        )

    @cached_property
    def _homes(self) -> ArmFolders:
        return self._context.arm_folders

    @cached_property
    def _benchmark(self) -> TrialRunner:
        return self._source().make(self._context.device)

    @property
    def _folder(self) -> Path:
        return self._config.root / "benchmark"

    def _file(self, planned: TrialPlan) -> Path:
        name = f"{planned.arm}-{planned.shots}-{planned.seed}-{planned.per_class}.json"
        return self._folder / "trials" / name

    def _identity(self, planned: TrialPlan) -> str:
        """What decides a trial: settings, and the tars of the images that it may draw."""
        tars: list[str] = []
        if planned.arm in SYNTHETIC:
            root = arm_folder(self._homes, planned.arm, planned.shots, planned.seed)
            shards = shard_folder(root, self._config.name, SYNTHETIC[planned.arm])
            tars = [digest for first, digest in self._tars(shards) if first < planned.per_class]
        facts = [getattr(planned, fact) for fact in _FACTS]
        return configuration.fingerprint(self._settings_identity, facts, tars)

    @cached_property
    def _settings_identity(self) -> Mapping[str, Any]:
        return self._config.identity("benchmark")

    def _tars(self, shards: ShardFolder) -> list[tuple[int, str]]:
        """The first image number and the digest of every shard of a folder, which are made before any trial."""
        if shards not in self._digests:
            self._digests[shards] = [(spec.first_number, shards.digest(spec)) for spec in shards.layout()]
        return self._digests[shards]

    @cached_property
    def _digests(self) -> dict[ShardFolder, list[tuple[int, str]]]:
        return {}

    def _record_splits(self) -> None:
        """Write which pictures each seed draws: `benchmark/splits/<shots>-<seed>.parquet`."""
        settings, dataset = self._config.benchmark, self._context.real_images()
        for shots, seed in dict.fromkeys((one.shots, one.seed) for one in self._plans):
            split = datasets.few_shot(dataset, shots, seed, settings.imbalance)
            parts = {"train": split.train, "val": split.val, "test": split.test}
            rows = [(one.key, one.label, name) for name, part in parts.items() for one in part]
            with files.atomic(self._folder / "splits" / f"{shots}-{seed}.parquet") as path:
                pd.DataFrame(rows, columns=["key", "class_index", "split"]).to_parquet(path, index=False)
