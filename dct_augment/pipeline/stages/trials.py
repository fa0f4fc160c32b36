"""The stage of benchmark trials."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dct_augment import tables
from dct_augment.benchmark import pool
from dct_augment.benchmark.arms import ARMS, Arm, ArmDraw, arm_draws, selected_by_guide
from dct_augment.benchmark.pool import TrialInputs, TrialPool
from dct_augment.benchmark.requirements import (
    arms_without,
    classes_with_fewer_images,
    empty_fold,
    images_that_know_more,
    missing_images,
    missing_synthetic_images,
    most_synthetic_images,
    without_effect,
)
from dct_augment.benchmark.trials import TrialPlan, TrialRunner, plan_trials, recipe
from dct_augment.diffusion.memory import free_bytes
from dct_augment.downstream import training
from dct_augment.downstream.memory import bytes_of_training
from dct_augment.downstream.prepared import refuse_full_disk
from dct_augment.downstream.transforms import Pixels, model_input
from dct_augment.errors import DatasetError, InputError
from dct_augment.generation.filter import filter_images
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.protocol import check_test
from dct_augment.pipeline.stages.arms import ArmStage
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.pipeline.stages.trial_records import OtherTrials, TrialRecords
from dct_augment.records import ImageKind, Progress, ProgressCallback, StageName, Trial, WorkUnit, ignore_progress
from dct_augment.wording import counted

_MANY = 1_000
"""Pictures whose preparation takes long enough to be told."""


class TrialStage(Stage):
    """Benchmark trials; a unit is one arm on one few-shot draw with a number of synthetic images."""

    name = StageName.BENCHMARK
    reads_images = True

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        others = self._config.downstream.other_models
        self._plans: tuple[TrialPlan, ...] = plan_trials(self._config.benchmark, others)
        settings = {model: context.identity("benchmark", model) for model in ("", *others)}
        self._records = TrialRecords(self._config, settings, context.arm_paths.images)
        self._folder: Path = self._config.root / "benchmark"
        self._pixels = self._folder.absolute() / "pixels"
        self._pool: TrialPool | None = None

    def check(self) -> None:
        """Check that there is a test, and real images of every class; say which have fewer than the draws ask for.

        Raises:
            DatasetError: there is no test, or none of a class, or a class has no image, or too few different ones for
                its folds.
            InputError: trials ask for more synthetic images than are generated, or for images that start from photos
                which a draw does not have, or for soft labels or a selection that no arm can have; or the disk has no
                room for the prepared validation and test images.
            ModelError: a model of the trials that are missing does not exist.
        """
        images = self._context.real_images()
        problems = missing_images(images, self._config.benchmark)
        if problems:
            raise DatasetError("; ".join(problems))
        remark = check_test(images, self._context.dataset, self._config)
        draws = self._context.draws()
        draws.split(self._config.benchmark.shot_count, self._config.benchmark.draws[0])
        if problem := empty_fold(draws):
            raise DatasetError(problem)
        few_shot_guide, per_class = self._context.has_few_shot_guide, self._config.generation.per_class
        if problem := missing_synthetic_images(self._config.benchmark, per_class, few_shot_guide=few_shot_guide):
            raise InputError(problem)
        start, own = self._config.generation.start, self._context.draws_have_all_photos
        if problem := images_that_know_more(self._config.benchmark, start, draws_have_all_photos=own):
            raise InputError(problem)
        for setting, has_effect in self._settings_of_guides():
            if problem := without_effect(self._config.benchmark, setting, has_effect):
                raise InputError(problem)
        self._check_models()
        for setting, has_effect in self._settings_of_guides():
            if note := arms_without(self._config.benchmark, setting, has_effect):
                self._context.progress(Progress(self.name, 0, 0, note))
        if remark:
            self._context.progress(Progress("data", 0, 0, remark))
        if note := classes_with_fewer_images(images, self._config.benchmark):
            self._context.progress(Progress("data", 0, 0, note))

    def _settings_of_guides(self) -> Iterator[tuple[str, Callable[[Arm], bool]]]:
        """Yield the settings by which a guide has a part in trials, each with the arms in which it has."""
        if self._config.downstream.synthetic_labels == "soft":
            yield "downstream.synthetic_labels: soft", lambda arm: arm.soft_labels
        if (selection := self._config.benchmark.selection) != "first":
            yield f"benchmark.selection: {selection}", lambda arm: arm.guide_of_draw

    def _check_models(self) -> None:
        """Read the configurations of the models whose trials are missing, and have their weights and room here.

        A finished run needs none of them.
        """
        inputs = {}
        for other_model in dict.fromkeys(plan.other_model for plan in self.missing):
            settings = recipe(self._config.downstream, self._config.benchmark.arms[0], other_model)
            taken = model_input(settings)
            inputs[Pixels(taken).made_by] = taken
            if settings.pretrained:
                training.create(settings, len(self._context.classes))
        sets = [(len(images), taken) for images in self._context.draws().held_out for taken in inputs.values()]
        refuse_full_disk(self._pixels, sets, sum(path.stat().st_size for path in self._pixels.glob("*.npy")))

    @property
    def missing(self) -> list[TrialPlan]:
        """The trials that are not recorded with today's settings and images; to ask writes nothing."""
        return [plan for plan in self._plans if self._records.read(plan) is None]

    def pending(self) -> tuple[WorkUnit, ...]:
        """Plan the trials that are not recorded with today's settings and images; record what each seed draws."""
        units = []
        for number, plan in enumerate(self._plans):
            if self._records.read(plan) is None:
                units.append(WorkUnit(self.name, number, plan.title(self._config.benchmark), 1))
                if damage := self._records.damage(plan):
                    self._context.progress(Progress(self.name, 0, 0, f"{damage}; the trial runs again"))
        self._write_splits(again=bool(units))
        path = self._folder / "filter.parquet"
        if len(self.filtered) and (units or not tables.is_intact(path)):
            tables.write(path, self.filtered)
        if units:
            self._prepare_images([self._plans[unit.number] for unit in units])
        return tuple(units)

    def _prepare_images(self, plans: Sequence[TrialPlan]) -> None:
        """Prepare what trials validate and test on, once for all processes and machines that run them."""
        count = sum(map(len, self._context.draws().held_out))
        if count >= _MANY:
            note = f"{counted(count, 'validation and test image')}: preparing those that are not yet"
            self._context.progress(Progress(self.name, 0, 0, note))
        self.runner.prepare(plans)

    def _do(self, unit: WorkUnit, on_progress: ProgressCallback) -> None:
        """Run one trial and record it."""
        plan = self._plans[unit.number]
        trial = self._pool.trial(plan) if self._pool else self.runner.trial(plan)
        self._records.write(plan, trial)

    def do_all(self, units: Sequence[WorkUnit], on_progress: ProgressCallback = ignore_progress) -> None:
        """Run trials here, as many at once as `benchmark.processes` says."""
        self.pull_images()
        plans = [self._plans[unit.number] for unit in units]
        trials = pool.run(self._inputs, plans, device=self._context.device, processes=self.side_by_side(units))
        # Closed at once when a stop arrives here: its processes would wait for work, and the exit for them.
        with closing(trials):
            for number, (plan, trial) in enumerate(trials, 1):
                self._records.write(plan, trial)
                on_progress(Progress(self.name, number, len(units), f"{trial.arm} {trial.accuracy:.1%}"))

    def side_by_side(self, units: Sequence[WorkUnit]) -> int:
        """How many of these units this machine does at a time."""
        return self.parallel(len(units))

    def parallel(self, trials: int) -> int:
        """Say how many of so many trials this machine runs at a time: no more than its memory holds."""
        wanted = min(pool.parallel_trials(self._config.benchmark, self._context.device), trials)
        if wanted <= 1:
            return wanted
        needed, free = self.bytes_of_a_trial, free_bytes("cpu")
        count = max(1, min(wanted, free // needed))
        if count < wanted:
            asked = f", not {wanted} (benchmark.processes)" if self._config.benchmark.processes else ""
            note = (
                f"{counted(count, 'trial')} side by side{asked}: each takes about {needed / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB of memory are free. Lower downstream.batch_size for more"
            )
            self._context.progress(Progress(self.name, 0, 0, note))
        return count

    @cached_property
    def bytes_of_a_trial(self) -> int:
        """The memory that a trial takes, at most."""
        settings, dataset = self._config.benchmark, self._context.real_images()
        photos = len(dataset.examples("train"))
        if settings.protocol == "holdout":
            photos = min(photos, max(settings.shot_count, *settings.shots_curve, 0) * len(dataset.classes))
        pictures = photos + most_synthetic_images(settings) * len(dataset.classes)
        outputs = 1 + max(info.index for info in dataset.classes)
        arms = {ARMS[arm].linear_probe: arm for arm in settings.arms}.values()
        recipes = [
            recipe(self._config.downstream, arm, model)
            for arm in arms
            for model in ("", *self._config.downstream.other_models)
        ]
        return max(bytes_of_training(each, outputs, pictures) for each in recipes)

    @contextmanager
    def worker_pool(self, count: int) -> Iterator[None]:
        """See `Stage`; its processes have the inputs of trials alone."""
        with TrialPool(self._inputs, count) as self._pool:
            try:
                yield
            finally:
                self._pool = None

    def publish(self) -> None:
        """Write `benchmark/trials.parquet`: a row per trial. Prepared images go when no trial needs them any more."""
        trials = self.trials()
        if len(trials) == len(self._plans):
            self.remove_prepared_images()
        if len(trials):
            tables.write(self._folder / "trials.parquet", trials)

    def remove_prepared_images(self) -> None:
        """Free the disk of what is made again when it is needed."""
        shutil.rmtree(self._pixels, ignore_errors=True)

    def trials(self) -> pd.DataFrame:
        """Read the recorded trials of the plan that were made with today's settings and images, without logits."""
        records = [record for plan in self._plans if (record := self._records.read(plan)) is not None]
        columns = [field.name for field in dataclasses.fields(Trial) if field.name != "logits"]
        return pd.DataFrame(records, columns=[*columns, "identity"]).astype({"val_accuracy": float})

    def logits(self, row: Mapping[str, Any]) -> np.ndarray:
        """Read the logits (N, K) of a row of `trials`."""
        return self._records.logits(
            TrialPlan(**{field.name: row[field.name] for field in dataclasses.fields(TrialPlan)})
        )

    def others(self) -> OtherTrials:
        """Find the recorded trials that are not of the plan, or were made with other settings or images."""
        return self._records.others(self._plans)

    @cached_property
    def filtered(self) -> pd.DataFrame:
        """A row per class-token image, with what the filter says of it; empty where no arm is filtered."""
        settings = self._config.benchmark
        if not any(ARMS[arm].filtered for arm in settings.arms):
            return pd.DataFrame()
        return filter_images(self._context.shards[ImageKind.CLASS_TOKEN], settings.filter_confidence)

    @cached_property
    def accepted(self) -> frozenset[str]:
        """The keys of the images that the filter let through."""
        return frozenset(self.filtered.loc[self.filtered["accepted"], "key"]) if len(self.filtered) else frozenset()

    @cached_property
    def _inputs(self) -> TrialInputs:
        context, config = self._context, self._config
        return TrialInputs(
            context.draws(),
            context.arm_paths.images,
            config.downstream,
            self.accepted,
            self._ranks,
            context.held_out_contents,
            self._pixels,
        )

    @cached_property
    def _ranks(self) -> Mapping[ArmDraw, Mapping[str, int]]:
        """The order of the images of the arms and draws in which a guide selects them."""
        settings = self._config.benchmark
        draws = [draw for draw in arm_draws(settings) if selected_by_guide(settings, draw.arm)]
        return {draw: ArmStage(self._context).selected_images(draw).ranks() for draw in draws}

    @cached_property
    def runner(self) -> TrialRunner:
        """What runs trials in this process."""
        return self._inputs.make(self._context.device)

    def _write_splits(self, *, again: bool) -> None:
        """Write which images each seed draws: `benchmark/splits/<shots>-<seed>.parquet`; if not `again`, what lacks."""
        draws = self._context.draws()
        for shots, seed in dict.fromkeys((plan.shots, plan.seed) for plan in self._plans):
            path = self._folder / "splits" / f"{shots}-{seed}.parquet"
            is_intact = tables.is_intact(path)
            if not again and is_intact:
                continue
            if path.is_file() and not is_intact:
                self._context.progress(Progress(self.name, 0, 0, f"{path} is damaged; it is written again"))
            split = draws.split(shots, seed)
            parts = {"train": split.train, "val": split.val, "test": split.test}
            rows = [(example.key, example.label, name) for name, examples in parts.items() for example in examples]
            table = pd.DataFrame(rows, columns=["key", "class_index", "split"])
            tables.write(path, table)
