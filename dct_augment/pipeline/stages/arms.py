"""The stage of images that depend on a few-shot draw: each arm and draw is a run of its own inside this one."""

from collections.abc import Sequence
from pathlib import Path

from dct_augment import config as configuration
from dct_augment import files
from dct_augment.benchmark.arms import arm_draws, arm_folder
from dct_augment.benchmark.trials import TrialRunner
from dct_augment.config import ClassifierConfig, Config
from dct_augment.downstream import training
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.stages.images import ImageStage
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.pipeline.stages.tokens import TokenStage
from dct_augment.records import ImageKind, Progress, ProgressCallback, WorkUnit, ignore_progress


class ArmStage(Stage):
    """Tokens and images of the arms `benchmark.OWN_IMAGES`; a unit is an arm on one draw.

    No image but those of the draw has a part in them. A guide trained on these is the run's guide, and certifies its
    tokens; textual inversion has no guide, so its tokens are used whatever the certificate says.
    """

    name = title = "arms"

    def pending(self) -> tuple[WorkUnit, ...]:
        """The arms and draws with tokens or images that are missing."""
        units = []
        for number, (arm, shots, seed) in enumerate(arm_draws(self._config.benchmark)):
            inner = RunContext(self._derived(arm, shots, seed))
            with files.lock(inner.config.root):
                todo = [unit for stage in _stages(inner) for unit in stage.pending()]
            if todo:
                units.append(WorkUnit("arms", number, f"{arm}, {shots} shots, seed {seed}", self._size))
        return tuple(units)

    def do(self, unit: WorkUnit, on_progress: ProgressCallback = ignore_progress) -> None:
        """Train the tokens of one arm on one draw, and draw its images."""
        arm, shots, seed = arm_draws(self._config.benchmark)[unit.number]
        inner = self._inner(arm, shots, seed)
        with files.lock(inner.config.root):
            files.sweep(inner.config.root)
            if arm == "class_token_few_shot_guide":
                inner.use_guide(self._guide(inner.config.root, shots, seed))
            files.write_text(inner.config.root / "config.yaml", configuration.dump(inner.config))
            done = 0
            for stage in _stages(inner):
                units = stage.pending()
                stage.do_all(units, lambda one, before=done: on_progress(self._part(one, before, unit)))  # type: ignore[misc]
                stage.publish()
                done += sum(one.size for one in units)

    def publish(self) -> None:
        """Nothing: every inner run has its own index."""

    @property
    def _size(self) -> int:
        return len(self._context.classes) * (self._config.tokens.max_updates + self._config.benchmark.per_class)

    def _part(self, one: Progress, before: int, unit: WorkUnit) -> Progress:
        return Progress(self.title, min(before + one.done, unit.size), unit.size, f"{unit.title}: {one.note}")

    def _inner(self, arm: str, shots: int, seed: int) -> RunContext:
        """The run of one arm on one draw, with the models of this one."""
        context = self._context
        _ = context.backend, context.guide, context.judge  # loaded once for all draws
        inner = RunContext(self._derived(arm, shots, seed), context.progress)
        inner.reuse_models(context)
        return inner

    def _derived(self, arm: str, shots: int, seed: int) -> Config:
        config, root = self._config, arm_folder(self._context.arm_folders, arm, shots, seed)
        generation = {"per_class": config.benchmark.per_class, "allow_uncertified": arm == "textual_inversion"}
        update = {"output": root, "generation": config.generation.model_copy(update=generation)}
        if arm == "textual_inversion":
            drawn = {"shots": shots, "few_shot_seed": seed, "imbalance": config.benchmark.imbalance}
            update["textual_inversion"] = config.textual_inversion.model_copy(update=drawn)
            update["tokens"] = config.tokens.model_copy(update={"objective": "textual_inversion"})
        else:
            # Named by what it was made of, not by where it lies: a run folder may be moved.
            update["guide"] = (ClassifierConfig(name=f"few-shot/{root.parent.name}/{root.name}", match="index"),)
        return config.model_copy(update=update)

    def _guide(self, root: Path, shots: int, seed: int) -> Path:
        """The folder of the classifier that has seen the images of one draw alone; trained if it is not there."""
        folder, source, known = root / "guide", self._context.real_images(), self._context.whole.classes
        if not folder.is_dir():
            bench = TrialRunner(source, {}, self._config.benchmark, self._config.downstream, self._context.device)
            labels = [info.name for info in sorted(known, key=lambda info: info.index)]
            with files.atomic_folder(folder) as partial:
                training.save(bench.guide(shots, seed, len(labels)), self._config.downstream, labels, partial)
        return folder


def _stages(inner: RunContext) -> Sequence[Stage]:
    return (TokenStage(inner, inner.classes), ImageStage(inner, ImageKind.CLASS_TOKEN))
