"""The stage of class tokens."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch

from dct_augment import datasets, processes
from dct_augment.errors import InputError
from dct_augment.pipeline import opened_photos
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.opened_photos import OpenedPhotos
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.records import ClassInfo, Progress, ProgressCallback, StageName, StopReason, WorkUnit
from dct_augment.tokens import formats
from dct_augment.tokens.checkpoint import TrainingCheckpoint
from dct_augment.tokens.class_token_trainer import ClassTokenTrainer
from dct_augment.tokens.files import PLAN
from dct_augment.tokens.groups import Groups, extend_groups
from dct_augment.tokens.textual_inversion import TextualInversionTrainer
from dct_augment.wording import listed


class TokenStage(Stage):
    """Class tokens; a unit is a group of classes, which train in one batch."""

    name = StageName.TOKENS
    by_processes = True

    def __init__(self, context: RunContext, classes: Iterable[ClassInfo] | None = None) -> None:
        super().__init__(context)
        self._classes = tuple(context.classes if classes is None else classes)

    def _identity(self, info: ClassInfo) -> dict[str, Any]:
        return self._config.narrow(self._whole_identity, [info])

    @cached_property
    def _whole_identity(self) -> dict[str, Any]:
        return self._context.identity("tokens")

    def _metadata(self, info: ClassInfo) -> dict[str, Any] | None:
        """Read the metadata of a token or a failure of a class with these settings; None if there is neither."""
        tokens, identity = self._context.tokens, self._identity(info)
        return tokens.metadata(info, identity) or tokens.failure(info, identity)

    def missing(self) -> tuple[ClassInfo, ...]:
        """The classes that have neither a token nor a failure with these settings."""
        return tuple(info for info in self._classes if self._metadata(info) is None)

    def check_others(self, classes: Collection[ClassInfo]) -> None:
        """Check that the tokens of all but these classes were trained with today's settings.

        Raises:
            StaleRunError: one was not.
        """
        for info in self._context.dataset.classes:
            if info not in classes:
                self._metadata(info)

    def without_token(self) -> dict[str, str]:
        """Why a class has no token, by name: none is needed, the guide is refused for it, or its training failed."""
        failures = {info.name: self._context.tokens.failure(info, self._identity(info)) for info in self._classes}
        return {name: metadata["stop_reason"] for name, metadata in failures.items() if metadata}

    def failed(self) -> dict[str, str]:
        """The classes whose training failed, by name, and why."""
        return {name: reason for name, reason in self.without_token().items() if reason == StopReason.NON_FINITE}

    def pending(self) -> tuple[WorkUnit, ...]:
        """The groups with classes that are missing."""
        self.check_others(self._classes)
        missing = [info.slug for info in self.missing()]
        tokens = self._context.tokens
        known = self._known_groups(missing)
        self._tell_of_damage(missing, known)
        groups = extend_groups(known, missing, self._config.tokens.classes_per_work_unit)
        if groups and groups != tokens.recorded_groups():
            tokens.record(groups)
        units = []
        for number, group in enumerate(groups):
            if missing_slugs := tuple(slug for slug in group if slug in missing):
                size = len(group) * self._updates
                units.append(WorkUnit(self.name, number, ", ".join(missing_slugs), size, missing_slugs))
            else:
                self._checkpoint(number).clear()  # of a process that was killed when all had been done
        return tuple(units)

    def _known_groups(self, missing: Sequence[str]) -> Groups:
        """Which classes train together, as recorded, or as tokens say.

        If neither tells of a class, they are the groups of a new run, where what is left of them agrees.
        """
        tokens = self._context.tokens
        known = tokens.groups()
        if tokens.recorded_groups() is not None or set(missing) <= {slug for group in known for slug in group}:
            return known
        size = self._config.tokens.classes_per_work_unit
        new = extend_groups((), [info.slug for info in self._classes], size)
        agree = len(known) <= len(new) and all(set(left) <= set(whole) for left, whole in zip(known, new, strict=False))
        return new if known and agree else known

    def _tell_of_damage(self, missing: Collection[str], groups: Groups) -> None:
        """Say which tokens were there and are damaged or lost, and what is done.

        Raises:
            InputError: the token of a class was imported, and is damaged: training gives another one.
        """
        tokens = self._context.tokens
        index = tokens.index()
        finished = set(index.loc[index["usable"].astype(bool), "slug"]) if "usable" in index else set()
        for info in self._classes:
            file = tokens.file(info)
            if info.slug not in missing or not (file.exists() or info.slug in finished):
                continue
            if file.exists() and tokens.was_imported(info):
                raise InputError(
                    f"{file} is damaged, and was imported: import it again (`dct-augment tokens import FILE "
                    "--replace`), or delete this file to train a token here"
                )
            state = "damaged" if file.exists() else "lost"
            company = next((group for group in groups if info.slug in group), ())
            beside = f" beside those of {listed([slug for slug in company if slug != info.slug], 7)}"
            again = f"the token is trained again{beside if len(company) > 1 else ''}"
            self._context.progress(Progress(self.name, 0, 0, f"{file} is {state}; {again}"))
        if tokens.recorded_groups() is None and groups:
            note = f"{tokens.path / PLAN} is damaged or lost; it is made again of what tokens say"
            self._context.progress(Progress(self.name, 0, 0, note))

    @property
    def _updates(self) -> int:
        config = self._config
        inverting = config.tokens.objective == "textual_inversion"
        return config.textual_inversion.steps if inverting else config.tokens.max_updates

    def _do(self, unit: WorkUnit, on_progress: ProgressCallback) -> None:
        """Train the classes of one group that are missing, from where a killed process was.

        All classes of the group train, as they did the first time: the bits of a token depend by rounding on the
        others in its batch.
        """
        context = self._context
        class_of = {info.slug: info for info in context.dataset.classes}
        finished = {slug for slug, info in class_of.items() if self._metadata(info)}
        missing = [slug for slug in unit.classes if slug not in finished]
        checkpoint = self._checkpoint(unit.number)
        refusals = context.refusals if missing else {}
        number = unit.number
        for info in (class_of[slug] for slug in missing if slug in refusals):
            context.tokens.refuse(info, refusals[info.slug], self._identity(info), context.base_model, number)
        missing = [slug for slug in missing if slug not in refusals]
        if missing:
            state = checkpoint.read(missing, finished)
            group = [slug for slug in context.tokens.groups()[number] if slug in class_of and slug not in refusals]
            order = [class_of[slug] for slug in (state["classes"] if state else group)]
            for trained in self._trainer(order).train(order, on_progress, resume=state, checkpoint=checkpoint.write):
                if trained.info.slug not in finished:
                    context.tokens.save(trained, self._identity(trained.info), context.base_model, number)
        checkpoint.clear()

    @contextmanager
    def worker_pool(self, count: int) -> Iterator[None]:
        """See `Stage`; a guide of the photos is made here, once, before the processes read it."""
        processes.begin_server()  # it imports while this process works
        _ = self._context.refusals
        with super().worker_pool(count):
            yield

    def publish(self) -> None:
        """Write `tokens/index.parquet`: a row per class with a token or a failure."""
        rows = [self._metadata(info) for info in self._context.dataset.classes]
        self._context.tokens.publish([metadata for metadata in rows if metadata])

    def _checkpoint(self, group: int) -> TrainingCheckpoint:
        return TrainingCheckpoint(
            self._context.tokens.path,
            group,
            self._whole_identity | {"classes_per_batch": self._config.tokens.classes_per_batch},
        )

    def _trainer(self, classes: Sequence[ClassInfo]) -> ClassTokenTrainer | TextualInversionTrainer:
        context, config = self._context, self._config
        if config.tokens.objective == "classifier":
            return ClassTokenTrainer(
                context.sampler,
                context.guide,
                judge=context.judge,
                tokens_config=config.tokens,
                prompts_config=config.prompts,
                starts=self._starts(classes),
                photos=self._photos(classes),
                rivals=context.guided_classes,
            )
        return TextualInversionTrainer(
            context.sampler,
            context.guide,
            images=self._few_shot_images(classes),
            judge=context.judge,
            inversion_config=config.textual_inversion,
            tokens_config=config.tokens,
            prompts_config=config.prompts,
            starts=self._starts(classes),
            rivals=context.guided_classes,
        )

    def _photos(self, classes: Sequence[ClassInfo]) -> dict[str, OpenedPhotos]:
        """The training photos of each class, by slug, if tokens are pulled towards them."""
        settings = self._config.tokens
        if not settings.photo_weight:
            return {}
        return opened_photos.by_class(self._context.photos(), classes, settings.photos_per_class)

    def _few_shot_images(self, classes: Sequence[ClassInfo]) -> dict[str, OpenedPhotos]:
        """The few-shot images of each class, by slug: those of this run's draw, or else of the configured one."""
        settings, photos = self._config.textual_inversion, self._context.photos_of_draw
        if photos is None:
            real = self._context.real_images()
            photos = datasets.few_shot(real, settings.shot_count, settings.few_shot_seed, settings.imbalance).train
        return opened_photos.by_class(photos, classes)

    def _starts(self, classes: Iterable[ClassInfo]) -> dict[str, torch.Tensor]:
        """Where training begins: the vectors of `tokens.init_from`, a token file for all or a folder with one each."""
        start = self._config.tokens.init_from
        if start is None:
            return {}
        found, widths = {}, list(self._context.backend.encoder_widths.values())
        for info in classes:
            path = start / f"{info.slug}.safetensors" if start.is_dir() else start
            if start.is_dir() and not path.is_file():
                continue
            token = formats.read(path)[0]
            count = len(token.vector)
            if list(token.widths) != widths or count != self._config.tokens.vectors:
                raise InputError(
                    f"tokens.init_from {str(path)!r} has {count} vectors of width {list(token.widths)}, but "
                    f"tokens.vectors is {self._config.tokens.vectors} and the model takes {widths}"
                )
            found[info.slug] = token.vector
        if not found:
            raise InputError(
                f"tokens.init_from {str(start)!r} holds no <class-slug>.safetensors for any class to train"
            )
        return found
