"""The stages of images: with class tokens, and with plain prompts."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from dct_augment.generation import plan
from dct_augment.generation.generator import Generator
from dct_augment.generation.plan import ShardSpec
from dct_augment.generation.shards import PLAIN
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.records import ClassInfo, ClassToken, Progress, ProgressCallback, WorkUnit, ignore_progress


class ImageStage(Stage):
    """Images of one split; a unit is a shard.

    In the split of class tokens, a class whose token is not certified is drawn with its plain prompt.
    """

    def __init__(self, context: RunContext, split: str) -> None:
        super().__init__(context)
        self.name, self.title = split, f"images ({split})"

    def layout(self, classes: Sequence[ClassInfo]) -> plan.Layout:
        """The layout of the split, extended to what the configuration asks for of these classes."""
        settings, known = self._config.generation, self._context.shards.layout(self.name)
        return plan.extend(known, self.name, classes, settings.per_class, settings.shard_size)

    def pending(self) -> tuple[WorkUnit, ...]:
        """The shards that are not there, or not whole."""
        shards = self._context.shards
        layout = self.layout(self._context.classes)
        todo = [spec for spec in layout if not shards.done(spec, self._made_of(spec))]
        if todo:
            shards.record(self.name, layout)
        return tuple(WorkUnit(self.name, spec.number, spec.stem(shards.run), len(spec)) for spec in todo)

    def do(self, unit: WorkUnit, on_progress: ProgressCallback = ignore_progress) -> None:
        """Draw one shard."""
        context, settings = self._context, self._config.generation
        spec = context.shards.layout(self.name)[unit.number]
        made_of = self._made_of(spec)
        rows = plan.rows(spec, context.whole.classes, self._config.prompts, self._tokens(spec), settings.seed)
        vectors = {
            info.slug: context.tokens.vector(info) for info in context.whole.classes if info.slug in made_of["tokens"]
        }
        samples = []
        for sample in self._generator.draw(rows, vectors, settings.batch_size):
            samples.append(sample)
            on_progress(Progress(self.title, len(samples), len(rows), sample.row.class_name))
        context.shards.write(spec, samples, made_of, settings.image_format)

    def publish(self) -> None:
        """Write `shards/_info.json`."""
        self._context.shards.publish()

    def _made_of(self, spec: ShardSpec) -> dict[str, Any]:
        """What decides the pixels of a shard."""
        return self._config.identity("generation") | {
            "split": self.name,
            "tokens": {slug: token.sha256 for slug, token in self._tokens(spec).items()},
            "names": {info.slug: info.name for info in self._context.whole.classes if info.slug in spec.ranges},
        }

    def _tokens(self, spec: ShardSpec) -> dict[str, ClassToken]:
        tokens = self._context.tokens
        if self.name == PLAIN:
            return {}
        any_verdict = self._config.generation.allow_uncertified
        wanted = [info for info in self._context.whole.classes if info.slug in spec.ranges]
        return {info.slug: tokens.token(info) for info in wanted if tokens.trusted(info, any_verdict=any_verdict)}

    @cached_property
    def _generator(self) -> Generator:
        context = self._context
        return Generator(
            context.backend,
            sampling=self._config.sampling,
            negative=self._config.prompts.negative,
            classes=context.whole.classes,
            guide=context.guide,
            judge=context.judge,
            on_progress=context.progress,
        )
