"""The plan of images: which ones to generate, and in which shard each lies. It is pure, and it only grows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dct_augment import prompts
from dct_augment.config import PromptsConfig, seed_from
from dct_augment.generation.start_choice import StartChoice
from dct_augment.records import ClassInfo, ClassToken, ImageKind, PlanRow

# No slug has an underscore, so the prefix makes no key of another class ("tiger" and "plain tiger").
_KEY_PREFIXES = {ImageKind.CLASS_TOKEN: "", ImageKind.PLAIN_PROMPT: "plain_"}


@dataclass(frozen=True)
class ShardSpec:
    """One shard: its number, and for each class (by slug) the half-open range of its image numbers."""

    number: int
    ranges: Mapping[str, tuple[int, int]]

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.ranges.values())

    @property
    def first_number(self) -> int:
        """The lowest image number of any class."""
        return min(start for start, _ in self.ranges.values())


Layout = tuple[ShardSpec, ...]
"""The shards of one kind of images in order, numbered from 0 without gaps."""


def covered(layout: Layout, slug: str) -> int:
    """Count the images of a class in the layout."""
    return max((spec.ranges[slug][1] for spec in layout if slug in spec.ranges), default=0)


def extend(layout: Layout, classes: Sequence[ClassInfo], per_class: int, shard_size: int) -> Layout:
    """Add shards to the layout until every class has `per_class` images.

    Nothing that is there already changes. Images are laid out number by number over all classes, so
    every shard holds about the same mix of classes.
    """
    counts = {info.slug: covered(layout, info.slug) for info in classes}
    missing = [(number, slug) for number in range(per_class) for slug, count in counts.items() if number >= count]
    added: list[ShardSpec] = []
    for begin in range(0, len(missing), shard_size):
        ranges: dict[str, tuple[int, int]] = {}
        for number, slug in missing[begin : begin + shard_size]:
            first, _ = ranges.get(slug, (number, 0))
            ranges[slug] = (first, number + 1)
        added.append(ShardSpec(len(layout) + len(added), ranges))
    return (*layout, *added)


def rows(
    spec: ShardSpec,
    kind: ImageKind,
    classes: Sequence[ClassInfo],
    prompts_config: PromptsConfig,
    tokens: Mapping[str, ClassToken],
    seed: int,
    starts: StartChoice | None = None,
    token_noise: float = 0.0,
) -> tuple[PlanRow, ...]:
    """List the plan rows of one shard, number by number over its classes.

    `tokens` holds the class token of each slug; a class without one gets its plain prompt. `starts` chooses start
    images; without it, images start from noise. `token_noise` is that of rows with a class token.
    Class-token and plain-prompt images of the same number share a seed and a start image, so they can be compared in
    pairs.
    """
    by_slug = {info.slug: info for info in classes}
    planned: list[PlanRow] = []
    last = max((stop for _, stop in spec.ranges.values()), default=0)
    for number in range(spec.first_number if spec.ranges else 0, last):
        for slug, (start, stop) in spec.ranges.items():
            if start <= number < stop:
                row = _row(kind, by_slug[slug], number, prompts_config, tokens.get(slug), seed)
                if row.token_sha256:
                    row = replace(row, token_noise=token_noise)
                planned.append(_started(row, seed, starts) if starts else row)
    return tuple(planned)


def _started(row: PlanRow, seed: int, starts: StartChoice) -> PlanRow:
    start_key, strength = starts.key(seed, row.slug, row.number), starts.strength(row.number)
    return replace(row, start_key=start_key, strength=strength)


def _row(
    kind: ImageKind, info: ClassInfo, number: int, prompts_config: PromptsConfig, token: ClassToken | None, seed: int
) -> PlanRow:
    template, context = prompts.choose(prompts_config.templates, prompts_config.contexts_of(info), number)
    return PlanRow(
        key=f"{_KEY_PREFIXES[kind]}{info.slug}-{number:06d}",
        class_index=info.index,
        class_name=info.name,
        slug=info.slug,
        number=number,
        prompt=prompts.build(template, info.name, token=token.word if token else None, context=context),
        seed=seed_from("image", seed, info.slug, number),
        token_sha256=token.sha256 if token else "",
    )
