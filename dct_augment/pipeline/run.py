"""A run: the stages wired to one configuration and one folder. The CLI and the flows call this.

Each method reads the files of the stages before, makes them first if they are missing, does only what is not done,
and leaves files that say so. Where the units of a stage are done is the caller's choice: here, one after the other,
or wherever `execute` takes them.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dct_augment import classifiers, files
from dct_augment import config as configuration
from dct_augment.benchmark.arms import ARMS, measured_kinds
from dct_augment.benchmark.requirements import most_synthetic_images
from dct_augment.classifiers import kept
from dct_augment.diffusion import names as diffusion_names
from dct_augment.errors import (
    InputError,
    MissingImagesError,
    ModelError,
    StaleRunError,
    TokenTrainingError,
    UntrainedClassesError,
)
from dct_augment.generation import plan
from dct_augment.pipeline import few_shot_guide
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.disk_space import refuse_full_disk
from dct_augment.pipeline.reporting import Report
from dct_augment.pipeline.stages import (
    IMAGE_STAGES,
    STAGES,
    ClassifierStage,
    ImageStage,
    Stage,
    TokenStage,
    TrialStage,
)
from dct_augment.pipeline.unit_pool import threads_of_units
from dct_augment.records import ClassInfo, ImageKind, Progress, StageName, StopReason, WorkUnit
from dct_augment.tokens import formats
from dct_augment.wording import counted_of, listed

_NEEDED_STAGES = {
    StageName.TOKENS: {StageName.TOKENS},
    StageName.CLASS_TOKEN_IMAGES: {StageName.TOKENS, StageName.CLASS_TOKEN_IMAGES},
    StageName.PLAIN_PROMPT_IMAGES: {StageName.PLAIN_PROMPT_IMAGES},
    StageName.ARMS: {StageName.ARMS},
    StageName.BENCHMARK: {StageName.BENCHMARK, StageName.METRICS},
    StageName.METRICS: {StageName.BENCHMARK, StageName.METRICS},
    StageName.CLASSIFIER: {
        StageName.TOKENS,
        StageName.CLASS_TOKEN_IMAGES,
        StageName.BENCHMARK,
        StageName.CLASSIFIER,
    },
    StageName.REPORT: {
        StageName.TOKENS,
        StageName.CLASS_TOKEN_IMAGES,
        StageName.BENCHMARK,
        StageName.METRICS,
        StageName.CLASSIFIER,
    },
}
"""The stages that each goal needs, whatever the arms."""

_PROMPTED = {ImageKind.CLASS_TOKEN: "its class token", ImageKind.PLAIN_PROMPT: "its plain prompt"}
"""How images of each kind are prompted, for messages."""

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
        self.check_settings()
        self._check_models({StageName.TOKENS})
        self.run_stages([TokenStage(self)])

    def generate(self) -> None:
        """Generate `generation.per_class` images of every class, with its class token if that is certified."""
        self.run_stages(self.stages(StageName.CLASS_TOKEN_IMAGES))

    def generate_plain(self) -> None:
        """Generate as many images of every class with its plain prompt, from the same seeds."""
        self.run_stages(self.stages(StageName.PLAIN_PROMPT_IMAGES))

    def benchmark(self) -> None:
        """Run the trials that are missing, after the images they need."""
        self.run_stages(self.stages(StageName.BENCHMARK))

    def fit(self) -> Path:
        """Train the classifier that is kept, after all that chooses how; return its folder."""
        self.run_stages(self.stages(StageName.CLASSIFIER))
        return self.config.root / kept.FOLDER

    def kept_classifier(self) -> str:
        """Say in one line which arm was kept, how good it is, and whether synthetic images help."""
        return ClassifierStage(self).summary()

    def run_all(self) -> Path:
        """Run all stages; return the report's page."""
        self.run_stages(self.stages(StageName.REPORT))
        return self.report()

    def record_config_if_missing(self) -> None:
        """Record the configuration of a run that has lost it."""
        if not (self.config.root / "config.yaml").is_file():
            self._record_config()

    def restore_guides(self) -> None:
        """Check guide and judge, or make a guide of photos, if their files are lost or damaged."""
        checks = self.config.root / "checks"
        is_lost = not files.read_json(checks / "guide.json")
        if self.has_few_shot_guide:
            is_lost = not few_shot_guide.is_made(self.guide_folder)
        if is_lost:
            _ = self.guide
        if self.config.judge and not files.read_json(checks / "judge.json"):
            _ = self.judge

    def stages(self, goal: StageName) -> Iterator[Stage]:
        """Yield the stages that a goal needs, in order, each made when those before it are done.

        Raises:
            StaleRunError: version 0.1.0 made the images of this run.
            InputError: a text encoder would cut a prompt, images of a class have no photo to start from, or the disk is
                too small for the images.
            DatasetError: a few-shot draw needs more images than there are.
            TokenTrainingError: the training of every class failed.
            ModelError: the folder is new, and a model that the stages need cannot be had.
        """
        names = self.needed_stages(goal)
        for kind, stage in IMAGE_STAGES.items():
            if stage in names:
                ImageStage(self, kind, self.images_per_class(goal)).restore_plan()
                self.shards[kind].refuse_old_layout()  # before anything is written
        refuse_full_disk(self, names, goal)
        self.check_settings()
        self._check_models(names)
        if names & set(IMAGE_STAGES.values()):
            _ = self.start_photos  # a class may have none
        measuring = StageName.BENCHMARK in names
        if measuring:
            self.real_images()  # the look comes first: what it finds decides which trials are done
            TrialStage(self).check()
        if StageName.TOKENS in names and any(self.tokens.path.glob("*.safetensors")):
            self.restore_guides()
        if StageName.TOKENS in names:
            yield TokenStage(self, self._classes_to_train())
        for name, kind in ((stage, kind) for kind, stage in IMAGE_STAGES.items()):
            if name in names:
                yield ImageStage(self, kind, self.images_per_class(goal))
        if measuring and StageName.TOKENS in names and self._all_failed:
            self.check()
        for name in (StageName.ARMS, StageName.BENCHMARK, StageName.METRICS, StageName.CLASSIFIER):
            if name in names:
                yield STAGES[name](self)

    def _check_models(self, names: Collection[StageName]) -> None:
        """Have the weights of all models here before anything is written in a new folder. A finished run needs none.

        Raises:
            ModelError: they cannot be had.
        """
        if (self.config.root / "config.yaml").is_file():
            return
        generating = bool(set(names) & {StageName.TOKENS, StageName.ARMS, *IMAGE_STAGES.values()})
        model = self.config.model
        if generating and diffusion_names.folder_here(model.path, model.revision) is None:
            _ = self.backend
        measuring = StageName.METRICS in names and bool(measured_kinds(self.config.benchmark))
        if measuring or set(names) & {StageName.TOKENS, StageName.ARMS}:
            for member in (*self.config.guide, *(self.config.judge or ())):
                classifiers.fetch(member, self.dataset.classes)

    def images_per_class(self, goal: StageName) -> int:
        """Say how many images of a class a goal needs: a benchmark alone makes those that its trials train on."""
        per_class = self.config.generation.per_class
        if goal not in (StageName.BENCHMARK, StageName.METRICS):
            return per_class
        return min(per_class, most_synthetic_images(self.config.benchmark))

    def needed_stages(self, goal: StageName) -> frozenset[StageName]:
        """List what a goal needs: a benchmark the images of its arms, a report those of class tokens in any case."""
        names = set(_NEEDED_STAGES[goal])
        if StageName.BENCHMARK in names:
            for arm in (ARMS[name] for name in self.config.benchmark.arms):
                if arm.own_images:
                    names.add(StageName.ARMS)
                elif arm.images is not None:
                    names |= _NEEDED_STAGES[IMAGE_STAGES[arm.images]]
        return frozenset(names)

    def _classes_to_train(self) -> list[ClassInfo]:
        """The chosen classes, and others that are part of a shard which was planned before and is not written yet."""
        unfinished = {slug for spec in self.unfinished(ImageKind.CLASS_TOKEN) for slug in spec.ranges}
        return [info for info in self.dataset.classes if info in self.classes or info.slug in unfinished]

    @property
    def _all_failed(self) -> bool:
        return len(self.failed) == len(self.classes)

    def run_stages(self, stages: Iterable[Stage], execute: Execute | None = None) -> None:
        """Do what is missing in each stage, and write its index.

        Raises:
            BusyRunError: another process works in this folder.
            StaleRunError: something was made with other settings; those stay recorded.
        """
        one_thread = threads_of_units(self.config, self.device)
        with self.locked(), self._unchanged_if_refused(), one_thread, self.unit_pools.kept():
            for stage in stages:
                if not stage.by_processes:
                    self.unit_pools.close()
                with self._recorded(stage.name):
                    units = stage.pending()
                    self.store.publish()  # the plan, before others do their part of it
                    if units and execute:
                        execute(stage, units)
                    elif units:
                        stage.do_all(units, self.progress)
                    self.store.pull()
                    stage.publish()

    @contextmanager
    def _unchanged_if_refused(self) -> Iterator[None]:
        """Put the recorded configuration back if what the run holds was made with other settings."""
        recorded = self.config.root / "config.yaml"
        before = recorded.read_bytes() if recorded.is_file() else None
        try:
            yield
        except StaleRunError:
            if before is not None:
                files.write_bytes(recorded, before)
                self.store.publish()
            raise

    @contextmanager
    def _recorded(self, stage: StageName) -> Iterator[None]:
        """Record the configuration, and the time that a stage takes.

        A report makes nothing that a configuration decides: what the trials were made with stays recorded.
        """
        began = time.monotonic()
        with self.locked():
            files.sweep(self.config.root)
            if stage is not StageName.REPORT or not (self.config.root / "config.yaml").is_file():
                self._record_config()
            self.weights.save()
            yield
            times = self._times() | {str(stage): self._times().get(stage, 0.0) + time.monotonic() - began}
            files.write_json(self.config.root / "times.json", times)
            self.store.publish()

    def _record_config(self) -> None:
        recorded = self.config.root / "config.yaml"
        if recorded.is_file() and not configuration.is_as_recorded(recorded):
            self.progress(Progress("run", 0, 0, f"{recorded} is damaged; it is recorded again, as it is given now"))
        files.write_text(self.config.root / "config.yaml", configuration.recorded(self.config))

    def _times(self) -> dict[str, float]:
        """Seconds spent in each stage so far, over all commands; what is damaged counts from 0."""
        stored = files.read_json(self.config.root / "times.json")
        return {stage: float(spent) for stage, spent in stored.items() if _is_time(spent)}

    def unfinished(self, kind: ImageKind) -> plan.Layout:
        """The shards that were planned before and are not written yet."""
        shards = self.shards[kind]
        return tuple(spec for spec in shards.layout() if not shards.digest(spec))

    def import_tokens(
        self, tokens: Sequence[tuple[formats.Token, ClassInfo]], *, any_model: bool = False, replace: bool = False
    ) -> None:
        """Take in tokens from elsewhere, each as that of a class of this run: all of them, or none.

        Raises:
            InputError: one does not fit (`TokenFolder.check_import`), or two are for one class.
            StaleRunError: the token of another class was trained with other settings.
        """
        words, stage = self.backend.word_norms(), TokenStage(self)
        for token, info in tokens:
            self.tokens.check_import(token, info, self.base_model, words=words, any_model=any_model, replace=replace)
        if repeated := [info.name for info, count in Counter(info for _, info in tokens).items() if count > 1]:
            raise InputError(f"there are several tokens for class {repeated[0]!r}; import one")
        stage.check_others([info for _, info in tokens])
        with self._recorded(StageName.TOKENS):
            for token, info in tokens:
                identity = self.config.narrow(self.identity("tokens"), [info])
                self.tokens.import_token(token, info, identity, self.base_model)
            stage.publish()

    @property
    def without_token(self) -> dict[str, str]:
        """The chosen classes that have no token, by name, and why: they need none, or none could be trained."""
        return TokenStage(self).without_token()

    @property
    def failed(self) -> dict[str, str]:
        """Those of them whose training failed, as the loss was not finite."""
        return TokenStage(self).failed()

    def check(self) -> None:
        """Say of which classes the training failed, or every image. One that needs no token, or is refused, is none.

        Raises:
            UntrainedClassesError: some are such classes, and `on_class_failure` is not `skip`; the others are done.
            TokenTrainingError: all are.
            MissingImagesError: of some classes not one of the planned images was generated, whatever
                `on_class_failure` is.
        """
        self._refuse_classes_without_images()
        failed = self.failed
        if failed and self.config.on_class_failure == "fail":
            reasons = ", ".join(f"{name} ({reason})" for name, reason in failed.items())
            of_classes = counted_of(len(failed), len(self.classes), "class")
            kind = TokenTrainingError if self._all_failed else UntrainedClassesError
            raise kind(
                f"no class token for {of_classes}: {reasons}. The others are done. Try other "
                "settings for these with another --output, e.g. --set tokens.seed=1, or set on_class_failure=skip"
            )

    def _refuse_classes_without_images(self) -> None:
        """Check that of each class with planned images there is one.

        Raises:
            MissingImagesError: of a class there is none.
        """
        for kind, shards in self.shards.items():
            rows = shards.rows(["class_name", "status", "error"])
            if rows.empty:
                continue
            names = {info.name for info in self.classes}
            with_images = set(rows.loc[rows["status"] == "ok", "class_name"])
            without = rows[rows["class_name"].isin(names - with_images)]
            if without.empty:
                continue
            reasons = without.groupby("class_name", sort=False)["error"].first().to_dict()
            of_classes = counted_of(len(reasons), len(self.classes), "class")
            named = listed([f"{name} ({reason})" for name, reason in reasons.items()], 10)
            instead = " or --set generation.allow_uncertified=false" if kind is ImageKind.CLASS_TOKEN else ""
            raise MissingImagesError(
                f"not one image of {of_classes} could be generated with {_PROMPTED[kind]}: {named}. All else is done. "
                f"Try other settings with another --output, e.g. --set sampling.guidance_scale=5{instead}"
            )

    def check_guide(self) -> None:
        """Say that there is no token at all because the guide is refused for every class.

        Raises:
            ModelError: it is.
        """
        reasons = self.without_token
        if len(reasons) == len(self.classes) and set(reasons.values()) == {StopReason.REFUSED}:
            raise ModelError(
                f"no class token could be trained: the few-shot guide is no better than chance for "
                f"{listed(list(map(repr, reasons)), 10)}. Give more "
                "photos, look for wrong labels among them (`dct-augment data`), choose another guide.backbone, or give "
                "a guide that knows the classes. `dct-augment run` goes on without tokens, with plain prompts"
            )

    def report(self) -> Path:
        """Write the report of what there is; return the page. Trials made with other settings are counted and told."""
        report = Report(self)
        with self._recorded(StageName.REPORT):
            return report.write()


def _is_time(value: object) -> bool:
    """Tell whether a value of a JSON file is a number of seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
