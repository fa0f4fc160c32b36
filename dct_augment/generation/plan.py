"""The plan: which classes train together, which images to draw, which shard each belongs to. Pure; it only grows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dct_augment import prompts
from dct_augment.config import PromptsConfig, seed_from
from dct_augment.records import ClassInfo, ClassToken, PlanRow


@dataclass(frozen=True)
class ShardSpec:
    """One shard of a split: for each class (by slug) the half-open range of its image numbers."""

    split: str
    number: int
    ranges: Mapping[str, tuple[int, int]]

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.ranges.values())

    def stem(self, run: str) -> str:
        """File name without ending: `<run>-<split>-000000`."""
        return f"{run}-{self.split}-{self.number:06d}"


Layout = tuple[ShardSpec, ...]
"""The shards of one split in order, numbered from 0 without gaps."""


def covered(layout: Layout, slug: str) -> int:
    """How many images of a class the layout holds."""
    return max((spec.ranges[slug][1] for spec in layout if slug in spec.ranges), default=0)


def extend(layout: Layout, split: str, classes: Sequence[ClassInfo], per_class: int, shard_size: int) -> Layout:
    """The layout with shards added until every class has `per_class` images.

    Nothing that is there already changes. Images are laid out number by number over all classes, so
    every shard holds about the same mix of classes.
    """
    have = {info.slug: covered(layout, info.slug) for info in classes}
    missing = [(number, slug) for number in range(per_class) for slug, first in have.items() if number >= first]
    added: list[ShardSpec] = []
    for begin in range(0, len(missing), shard_size):
        ranges: dict[str, tuple[int, int]] = {}
        for number, slug in missing[begin : begin + shard_size]:
            ranges[slug] = (ranges.get(slug, (number, 0))[0], number + 1)
        added.append(ShardSpec(split, len(layout) + len(added), ranges))
    return (*layout, *added)


def rows(
    spec: ShardSpec, classes: Sequence[ClassInfo], prompting: PromptsConfig, tokens: Mapping[str, ClassToken], seed: int
) -> tuple[PlanRow, ...]:
    """The plan rows of one shard, number by number over its classes.

    `tokens` holds the class token of each slug; a class without one is drawn with its plain prompt.
    Class-token and plain images of the same number share a seed, so they can be compared in pairs.
    """
    known = {info.slug: info for info in classes}
    order = [
        (number, known[slug])
        for number in range(max((stop for _, stop in spec.ranges.values()), default=0))
        for slug, (start, stop) in spec.ranges.items()
        if start <= number < stop
    ]
    return tuple(_row(info, number, prompting, tokens.get(info.slug), seed) for number, info in order)


def _row(info: ClassInfo, number: int, prompting: PromptsConfig, token: ClassToken | None, seed: int) -> PlanRow:
    template, context = prompts.choose(prompting.templates, prompting.contexts, number)
    return PlanRow(
        key=f"{info.slug}-{number:06d}",
        class_index=info.index,
        class_name=info.name,
        slug=info.slug,
        number=number,
        prompt=prompts.build(template, info.name, token=token.word if token else None, context=context),
        seed=seed_from("image", seed, info.slug, number),
        token_sha256=token.sha256 if token else "",
    )
