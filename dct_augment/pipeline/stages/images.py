"""The stages of images: with class tokens, and with plain prompts."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from dct_augment import prompts
from dct_augment.generation import plan
from dct_augment.generation.generator import Generator
from dct_augment.generation.plan import ShardSpec
from dct_augment.generation.start_images import StartImages
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.records import (
    ClassInfo,
    ClassToken,
    ImageKind,
    Progress,
    ProgressCallback,
    StageName,
    WorkUnit,
)

IMAGE_STAGES = {
    ImageKind.CLASS_TOKEN: StageName.CLASS_TOKEN_IMAGES,
    ImageKind.PLAIN_PROMPT: StageName.PLAIN_PROMPT_IMAGES,
}


_MOST_IMAGES = 10**8
"""More are planned by no settings that are meant."""


class ImageStage(Stage):
    """Images of one kind; a unit is a shard.

    Among the class-token images, a class whose token is not certified is generated with its plain prompt.

    Args:
        context: of the run.
        kind: of images.
        per_class: images of a class; `generation.per_class` if not given.
        grows: whether shards are added to those that are planned, if any are.
    """

    by_processes = True

    def __init__(
        self, context: RunContext, kind: ImageKind, per_class: int | None = None, *, grows: bool = True
    ) -> None:
        super().__init__(context)
        self._grows = grows
        self._per_class = per_class or context.config.generation.per_class
        self.name = IMAGE_STAGES[kind]
        self._kind, self._shards = kind, context.shards[kind]
        self._known_tokens: dict[tuple[str | int, ...], ClassToken | None] = {}

    def layout(self, classes: Sequence[ClassInfo]) -> plan.Layout:
        """Extend the recorded layout to what is asked for of these classes."""
        planned = self._shards.layout()
        if planned and not self._grows:
            return planned
        return plan.extend(planned, classes, self._per_class, self._config.generation.shard_size)

    def restore_plan(self) -> None:
        """Write a plan.json again that is damaged, or lost beside shards, and say so.

        Raises:
            ShardError: the images of a shard are known from nowhere.
        """
        classes, settings = self._context.classes, self._config.generation
        asked = dict.fromkeys((self._per_class, settings.per_class))
        counts = [count for count in asked if count * len(classes) <= _MOST_IMAGES]
        layouts = (plan.extend((), classes, count, settings.shard_size) for count in counts)  # for a lost plan alone
        self._tell(self._shards.restore_plan(layouts))

    def pending(self) -> tuple[WorkUnit, ...]:
        """Plan the shards that are not there, or not intact."""
        shards = self._shards
        self.restore_plan()
        shards.refuse_old_layout()
        layout = self.layout(self._context.classes)
        labels = {info.slug: info.index for info in self._context.dataset.classes}
        tokens = self.tokens(self._context.dataset.classes)  # all at once, not those of every shard
        missing = [spec for spec in layout if not shards.done(spec, self.identity(spec, tokens), labels)]
        self._tell_of_damage(missing)
        if missing or (layout and not shards.is_recorded):
            shards.record(layout)
        return tuple(WorkUnit(self.name, spec.number, shards.stem(spec), len(spec)) for spec in missing)

    def _tell_of_damage(self, missing: Sequence[ShardSpec]) -> None:
        """Say which shards were finished, and are damaged or lost; they are generated again."""
        shards = self._shards
        for spec in missing:
            parquet, tar = shards.parquet(spec), shards.tar(spec)
            if parquet.is_file():  # it was written last
                damaged = parquet if shards.load(spec) is None else tar
                state = "damaged" if damaged.is_file() else "lost"
                self._tell(f"{damaged} is {state}; the shard is generated again")

    def _tell(self, remark: str) -> None:
        if remark:
            self._context.progress(Progress(self.name, 0, 0, remark))

    def _do(self, unit: WorkUnit, on_progress: ProgressCallback) -> None:
        """Generate one shard."""
        context, settings = self._context, self._config.generation
        spec = self._shards.layout()[unit.number]
        classes = self._classes(spec)
        tokens = self.tokens(classes)
        identity = self.identity(spec, tokens)
        photos = context.start_photos
        starts = photos.choice if photos else None
        noise = settings.token_noise
        rows = plan.rows(spec, self._kind, classes, self._config.prompts, tokens, settings.seed, starts, noise)
        vectors = {info.slug: context.tokens.vector(info) for info in classes if info.slug in tokens}
        images = []
        for image in self._generator.generate(rows, vectors, settings.batch_size):
            images.append(image)
            on_progress(Progress(self.name, len(images), len(rows), image.row.class_name))
        self._shards.write(spec, images, identity, settings.image_format)

    def publish(self) -> None:
        """Write `_info.json` beside the shards."""
        self._shards.publish()

    def identity(self, spec: ShardSpec, tokens: Mapping[str, ClassToken]) -> dict[str, Any]:
        """Give all that decides the pixels of a shard; `tokens` are those of its classes, and maybe of others."""
        classes = self._classes(spec)
        photos = self._context.start_photos
        started = {"start_images": photos.identity(spec.ranges)} if photos else {}
        settings = self._settings
        digests = {info.slug: tokens[info.slug].sha256 for info in classes if info.slug in tokens}
        led_away = {slug: token.sha256 for slug, (_, token) in self._rivals(classes).items()}
        if not digests:
            generation = {key: value for key, value in settings["generation"].items() if key != "token_noise"}
            settings = settings | {"generation": generation}
        return (
            self._config.narrow(settings, classes)
            | started
            | ({"negative_tokens": led_away} if led_away else {})
            | {"kind": str(self._kind), "tokens": digests, "names": {info.slug: info.name for info in classes}}
        )

    def tokens(self, classes: Iterable[ClassInfo]) -> dict[str, ClassToken]:
        """Give the class token of each class that is to be generated with it, by slug."""
        if self._kind is ImageKind.PLAIN_PROMPT:
            return {}
        tokens = {info.slug: self._token(info) for info in classes}
        return {slug: token for slug, token in tokens.items() if token is not None}

    def _rivals(self, classes: Iterable[ClassInfo]) -> dict[str, tuple[ClassInfo, ClassToken]]:
        """The class, with its token, that the images of each of these classes are led away from, by slug.

        It is the first of those that they are most taken for (`Certificate.confused_with`) that has a token itself.
        """
        if self._kind is ImageKind.PLAIN_PROMPT or not self._config.prompts.leads_away_from_tokens:
            return {}
        found = {}
        for info in classes:
            if self._token(info) is None:
                continue
            slugs = self._context.tokens.read(info).metadata.get("confused_with") or ()
            others = (self._context.dataset.classes[self._places[slug]] for slug in slugs if slug in self._places)
            for rival in others:
                token = self._token(rival)
                if token is not None:
                    found[info.slug] = rival, token
                    break
        return found

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return self._context.identity("generation")

    def _classes(self, spec: ShardSpec) -> list[ClassInfo]:
        """The classes of a shard, in the order of the data set."""
        places = sorted(self._places[slug] for slug in spec.ranges if slug in self._places)
        return [self._context.dataset.classes[place] for place in places]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {info.slug: place for place, info in enumerate(self._context.dataset.classes)}

    def _token(self, info: ClassInfo) -> ClassToken | None:
        """The token of a class, None if it is to be generated without one; a file that has not changed is read once."""
        folder, any_verdict = self._context.tokens, self._config.generation.allow_uncertified
        try:
            status = folder.file(info).stat()
        except FileNotFoundError:
            return None
        file = (info.slug, status.st_size, status.st_mtime_ns, status.st_ino)
        if file not in self._known_tokens:
            is_usable = folder.is_usable(info, any_verdict=any_verdict)
            self._known_tokens[file] = folder.token(info) if is_usable else None
        return self._known_tokens[file]

    @cached_property
    def _generator(self) -> Generator:
        context = self._context
        photos, sampler, settings = context.start_photos, context.generation_sampler, self._config.prompts
        return Generator(
            sampler,
            classes=context.guided_classes,
            guide=context.guide,
            judge=context.judge,
            starts=StartImages(sampler.backend, photos.photos) if photos else None,
            negatives=self._negatives() if len(settings.negatives) > 1 or settings.leads_away_from_tokens else None,
            image_format=self._config.generation.image_format,
            on_progress=context.progress,
        )

    def _negatives(self) -> dict[str, tuple[str, torch.Tensor | None]]:
        """The negative prompt of every class, by slug, with the vector of its token if it holds one."""
        settings, classes = self._config.prompts, self._context.dataset.classes
        negatives: dict[str, tuple[str, torch.Tensor | None]] = {}
        rivals = self._rivals(classes)
        for info in classes:
            if info.slug in rivals:
                rival, token = rivals[info.slug]
                prompt = prompts.build(settings.templates[0], rival.name, token=token.word)
                negatives[info.slug] = prompt, self._context.tokens.vector(rival)
            else:
                negatives[info.slug] = settings.negative_of(info), None
        return negatives
