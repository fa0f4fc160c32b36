"""The stage of images that depend on a few-shot draw: each arm and draw is a run of its own inside this one."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dct_augment import classifiers, files, tables
from dct_augment import config as configuration
from dct_augment.benchmark.arms import (
    ARMS,
    GUIDE_OF_DRAW,
    ArmDraw,
    arm_draws,
    arm_folder,
    images_of_a_class,
    selected_by_guide,
)
from dct_augment.benchmark.draws import draw_title
from dct_augment.benchmark.trials import TrialRunner
from dct_augment.config import AnyClassifierConfig, ClassifierConfig, Config, FewShotClassifierConfig
from dct_augment.downstream.saving import save
from dct_augment.pipeline import few_shot_guide
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.selected_images import SelectedImages
from dct_augment.pipeline.stages.images import ImageStage
from dct_augment.pipeline.stages.lora import LoraStage
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.pipeline.stages.tokens import TokenStage
from dct_augment.records import Progress, ProgressCallback, StageName, WorkUnit
from dct_augment.tokens.files import INDEX

_GUIDE, _HASHES = "guide", "hashes.json"
_DRAW = "draw"
"""The key of `hashes.json` for the draw whose photos the guide knows, by the name of its folder."""


class ArmStage(Stage):
    """Tokens and images of the arms that have images of their own; a unit is an arm on one few-shot draw.

    No image but those of the draw has a part in them. A guide trained on these is the run's guide, and certifies its
    tokens; textual inversion has no guide, so its tokens are used whatever the certificate says. A LoRA of the draw is
    in the text-to-image model while tokens and images of its arm are made, and no longer.
    """

    name = StageName.ARMS
    by_processes = True

    def pending(self) -> tuple[WorkUnit, ...]:
        """Plan the arms and draws with tokens or images that are missing."""
        units = []
        for number, draw in enumerate(arm_draws(self._config.benchmark)):
            inner = self._inner_run(draw)
            if inner.config.generation.start != "noise":
                self._use_photos(inner, draw)  # they are part of what makes its images
            with _locked(inner):
                is_pending = _is_pending(_lora_stages(inner)) or _is_pending(_inner_stages(inner, draw))
                is_pending = is_pending or self._is_damaged(inner, draw)
            if is_pending:
                units.append(WorkUnit(self.name, number, draw.title(self._config.benchmark), self._size(draw)))
        return tuple(units)

    def _is_damaged(self, inner: RunContext, draw: ArmDraw) -> bool:
        """Whether an arm on a draw that has its tokens and images lacks another file; say which."""
        arm, tokens, config = ARMS[draw.arm], inner.tokens.path, inner.config.root / "config.yaml"
        lacking = []
        if not config.is_file() or not configuration.is_as_recorded(config, in_place=True):
            lacking.append(config)
        if arm.tokens_from and not tables.is_intact(tokens / INDEX):
            lacking.append(tokens / INDEX)
        if arm.guide_of_draw and (guide := self._damage_of_guide(tokens)):
            lacking.append(guide)
        lacking += [shards.path / "_info.json" for shards in inner.shards.values() if shards.info_problem()]
        if self._chooses(draw) and not self._chosen(inner, draw).is_made:
            lacking.append(self._chosen(inner, draw).path)
        for path in lacking:
            self._context.progress(Progress(self.name, 0, 0, f"{path} is damaged or lost; it is made again"))
        return bool(lacking)

    def _do(self, unit: WorkUnit, on_progress: ProgressCallback) -> None:
        """Train the tokens of one arm on one draw, and generate its images."""
        draw = arm_draws(self._config.benchmark)[unit.number]
        inner = self._inner(draw)
        store = self._context.store
        with _locked(inner), store.exclusive(inner.config.root), store.exclusive(inner.tokens.path):
            files.sweep(inner.config.root)
            files.sweep(inner.tokens.path)
            if ARMS[draw.arm].guide_of_draw:
                self._make_guide(inner, draw)
            files.write_text(inner.config.root / "config.yaml", configuration.recorded(inner.config))
            done = _do_missing(_lora_stages(inner), unit, 0, on_progress)
            with inner.lora_inserted():
                _do_missing(_inner_stages(inner, draw), unit, done, on_progress)
            if self._chooses(draw):
                self._context.pull_images()
                self._chosen(inner, draw).make(draw.title(self._config.benchmark))

    def restore_plans(self) -> None:
        """See `ImageStage.restore_plan`, of every arm and draw."""
        for draw in arm_draws(self._config.benchmark):
            inner = self._inner_run(draw)
            if (kind := ARMS[draw.arm].images) and inner.shards[kind].path.is_dir():
                ImageStage(inner, kind).restore_plan()

    def selected_images(self, draw: ArmDraw) -> SelectedImages:
        """The images of an arm that the guide of a draw selects, in their order."""
        return self._chosen(self._inner_run(draw), draw)

    def _chosen(self, inner: RunContext, draw: ArmDraw) -> SelectedImages:
        kind = ARMS[draw.arm].images
        assert kind is not None
        return SelectedImages(inner, kind)

    def _chooses(self, draw: ArmDraw) -> bool:
        return selected_by_guide(self._config.benchmark, draw.arm)

    def publish(self) -> None:
        """Write nothing: every inner run has its own index."""

    def _size(self, draw: ArmDraw) -> int:
        """Count what progress of an arm on a draw counts to."""
        config = self._config
        of_lora = config.lora.steps if ARMS[draw.arm].lora else 0
        return of_lora + len(self._context.classes) * (config.tokens.max_updates + config.benchmark.candidate_count)

    def _inner(self, draw: ArmDraw) -> RunContext:
        """The run of one arm on one draw, with the models of this one, and the photos of the draw."""
        context = self._context
        _ = context.backend, context.judge  # loaded once for all draws
        if not context.has_few_shot_guide:
            _ = context.guide
        inner = self._inner_run(draw)
        inner.reuse_models(context)
        self._use_photos(inner, draw)
        return inner

    def _inner_run(self, draw: ArmDraw) -> RunContext:
        """The run of one arm on one draw; its tokens lie where arms with other settings of generation find them."""
        inner = RunContext(self._inner_config(draw), self._context.progress, outer=self._context)
        inner.use_token_folder(self._context.arm_paths.tokens(draw))
        if ARMS[draw.arm].lora:
            inner.use_lora(self._context.arm_paths.lora(draw))
        return inner

    def _use_photos(self, inner: RunContext, draw: ArmDraw) -> None:
        """Let the inner run know the photos of its draw alone."""
        inner.use_data(self._context)
        inner.use_photos(self._context.draws().split(draw.shots, draw.seed).train)

    def _inner_config(self, draw: ArmDraw) -> Config:
        """The configuration of the run of one arm on one draw."""
        config = self._config
        root = arm_folder(self._context.arm_paths.images, draw.arm, draw.shots, draw.seed)
        inverting = ARMS[draw.arm].tokens_from == "textual_inversion"
        generation: dict[str, Any] = {
            "per_class": images_of_a_class(config.benchmark, draw.arm),
            "allow_uncertified": inverting or config.generation.allow_uncertified,
            "seed": config.generation.seed + draw.seed,
        }
        if ARMS[draw.arm].starts_from_photos and config.generation.start == "noise":
            generation["start"] = "same_class"
        # Everything random is drawn anew for each draw, so that intervals hold what varies.
        seed = config.tokens.seed + draw.seed
        update = {"output": config.output_of(root), "generation": config.generation.model_copy(update=generation)}
        if ARMS[draw.arm].lora:
            update["lora"] = config.lora.model_copy(update={"seed": config.lora.seed + draw.seed})
        if inverting:
            few_shot = {
                "shots": draw.shots,
                "few_shot_seed": draw.seed,
                "imbalance": config.benchmark.imbalance,
                "seed": config.textual_inversion.seed + draw.seed,
            }
            update["textual_inversion"] = config.textual_inversion.model_copy(update=few_shot)
            # Tokens from elsewhere may know other images than the draw's.
            tokens = {"objective": "textual_inversion", "init_from": None, "seed": seed}
            update["tokens"] = config.tokens.model_copy(update=tokens)
        else:
            # Named by what it was made of, not by where it lies: a run folder may be moved.
            folder = self._context.arm_paths.tokens(draw)
            made = ClassifierConfig(name=f"{GUIDE_OF_DRAW}{folder.parent.name}/{folder.name}", match="index")
            others = [
                member for member in config.guide if self._context.has_few_shot_guide and member.name != "few_shot"
            ]
            update["guide"] = (made, *others)
            update["tokens"] = config.tokens.model_copy(update={"seed": seed})
        return config.model_copy(update=update)

    def _damage_of_guide(self, tokens: Path) -> Path | None:
        """Return the file of a draw's guide, beside its tokens, that is damaged or lost; None if it is whole."""
        folder = tokens / _GUIDE
        if self._context.has_few_shot_guide:
            return None if few_shot_guide.is_made(folder) else folder
        if not folder.is_dir():
            return folder
        index = tokens / INDEX
        is_older = tables.is_intact(index) and not tables.has_hash(index)  # then guides had no hashes, either
        if not is_older and not files.read_json(folder / _HASHES):
            return folder / _HASHES
        recorded = files.read_json(folder / _HASHES)
        if recorded.pop(_DRAW, tokens.name) != tokens.name:
            return folder
        changed = files.changed(folder, recorded)
        return folder / changed[0] if changed else None

    def _make_guide(self, inner: RunContext, draw: ArmDraw) -> None:
        """Give the inner run a guide that has seen the images of its draw alone; made if it is not there.

        It is made like the run's own if that is `few_shot`, else it is the low-resource classifier.
        """
        context, folder = self._context, inner.tokens.path / _GUIDE
        classes = context.dataset.classes
        if context.has_few_shot_guide:
            title = draw_title(context.config.benchmark, draw.seed)
            inner.make_guide(_seeded(context.config.guide, draw.seed), folder, title)
            return
        if folder.is_dir() and (damaged := self._damage_of_guide(inner.tokens.path)):
            context.progress(Progress(self.name, 0, 0, f"{damaged} is damaged or lost; the guide is made again"))
            shutil.rmtree(folder)
        if not (folder / "config.json").is_file():  # written last
            contents = context.held_out_contents  # with these, no such image is opened to see that none leaks
            runner = TrialRunner(context.draws(), {}, self._config.downstream, context.device, contents=contents)
            labels = [info.name for info in sorted(classes, key=lambda info: info.index)]
            with files.atomic_folder(folder, replace=True) as partial:
                guide = runner.guide(draw.shots, draw.seed, len(labels))
                save(guide, self._config.downstream, labels, partial)
                files.write_json(partial / _HASHES, {**files.hashes(partial), _DRAW: inner.tokens.path.name})
        member = ClassifierConfig(name=f"local-dir:{folder}", match="index")
        inner.use_guide(classifiers.load((member,), classes, device=context.device))


def _seeded(members: Sequence[AnyClassifierConfig], draw: int) -> tuple[AnyClassifierConfig, ...]:
    """Give the few-shot member of a guide the random numbers of a draw."""
    seeded = []
    for member in members:
        if isinstance(member, FewShotClassifierConfig):
            member = member.model_copy(update={"seed": member.seed + draw})
        seeded.append(member)
    return tuple(seeded)


@contextmanager
def _locked(inner: RunContext) -> Iterator[None]:
    """Keep other processes out of the folder of an inner run, and of that of its tokens, which other arms may share."""
    with files.lock(inner.config.root), files.lock(inner.tokens.path, wait=True):
        yield


def _as_part_of(unit: WorkUnit, before: int, on_progress: ProgressCallback) -> ProgressCallback:
    """Make a callback for the progress of an inner stage, which begins after `before` of the unit's size."""

    def pass_on(progress: Progress) -> None:
        done = min(before + progress.done, unit.size)
        on_progress(Progress(unit.stage, done, unit.size, f"{unit.title}: {progress.note}"))

    return pass_on


def _lora_stages(inner: RunContext) -> Sequence[Stage]:
    """The stage of the LoRA, if the inner run has one: tokens and images are planned when it is there."""
    return (LoraStage(inner),) if inner.lora_file else ()


def _inner_stages(inner: RunContext, draw: ArmDraw) -> Sequence[Stage]:
    """The stages of the inner run of a draw: tokens, if the arm has any, and images."""
    arm = ARMS[draw.arm]
    assert arm.images is not None
    images = ImageStage(inner, arm.images)
    return (TokenStage(inner, inner.classes), images) if arm.tokens_from else (images,)


def _is_pending(stages: Sequence[Stage]) -> bool:
    """Whether anything is missing in any of some stages; those after it are not asked: they need its files."""
    return any(stage.pending() for stage in stages)


def _do_missing(stages: Sequence[Stage], unit: WorkUnit, done: int, on_progress: ProgressCallback) -> int:
    """Do what is missing in inner stages of a unit, of which so much is `done`; return how much is done then."""
    for stage in stages:
        inner_units = stage.pending()
        stage.do_all(inner_units, _as_part_of(unit, done, on_progress))
        stage.publish()
        done += sum(inner_unit.size for inner_unit in inner_units)
    return done
