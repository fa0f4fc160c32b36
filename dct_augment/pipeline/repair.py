"""Makes again what is lost or damaged of a run, and adds nothing to what it has."""

from collections.abc import Collection, Iterator

from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import IMAGE_STAGES, STAGES, ArmStage, ImageStage, Stage, TokenStage
from dct_augment.pipeline.verify.problem import GUIDES, LOOK
from dct_augment.records import ClassInfo, StageName

_AFTER_IMAGES = (StageName.ARMS, StageName.BENCHMARK, StageName.METRICS, StageName.CLASSIFIER)
"""The stages that look at real images, in their order."""


def restore_plans(run: Run) -> None:
    """Write every plan of images again that is damaged or lost, from the rows of shards and the settings.

    To be called before damaged shards are removed: what is left of them tells what was planned.

    Raises:
        ShardError: the images of a shard are known from nowhere.
    """
    for kind in IMAGE_STAGES:
        ImageStage(run, kind).restore_plan()
    ArmStage(run).restore_plans()


def repair(run: Run, makers: Collection[str]) -> None:
    """Make again what is not there, or damaged, of what these makers make: stages, LOOK or GUIDES of `verify`.

    Damaged files should be removed before.
    """
    with run.locked():
        run.record_config_if_missing()
        if GUIDES in makers:
            run.restore_guides()
        if LOOK in makers:
            _ = run.data
        run.run_stages(_stages(run, makers))
        if StageName.REPORT in makers:
            run.report()


def _stages(run: Run, makers: Collection[str]) -> Iterator[Stage]:
    """Yield the stages of these names, in their order; images are those that are planned."""
    if set(_AFTER_IMAGES) & set(makers):
        run.real_images()
    if StageName.TOKENS in makers:
        yield TokenStage(run, _classes_with_tokens(run))
    for kind, name in IMAGE_STAGES.items():
        if name in makers:
            yield ImageStage(run, kind, grows=False)
    for name in _AFTER_IMAGES:
        if name in makers:
            yield STAGES[name](run)


def _classes_with_tokens(run: Run) -> list[ClassInfo]:
    """The classes that have a token or a failure, or had one: also those with images that one has generated.

    All that are chosen, if nothing tells of any.
    """
    slugs = {slug for group in run.tokens.groups() for slug in group} | set(run.tokens.index().get("slug", ()))
    for shards in run.shards.values():
        rows = shards.rows(["key", "token_sha256"])
        if len(rows):
            slugs |= {key.rpartition("-")[0] for key in rows.loc[rows["token_sha256"] != "", "key"]}
    return [info for info in run.dataset.classes if info.slug in slugs] or list(run.classes)
