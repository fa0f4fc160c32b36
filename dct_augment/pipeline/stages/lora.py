"""The stage of the LoRA that an arm learns from a few-shot draw."""

from typing import Any

from dct_augment import files
from dct_augment.diffusion import lora
from dct_augment.pipeline import opened_photos
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.records import Progress, ProgressCallback, StageName, WorkUnit
from dct_augment.tokens.checkpoint import Checkpoint
from dct_augment.tokens.lora import LoraTrainer


class LoraStage(Stage):
    """The LoRA of one draw: a single unit. Its file lies where all arms find it that use the same.

    Args:
        context: of the run of an arm on one draw, which has a `lora_file`.
    """

    name = StageName.ARMS

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        assert context.lora_file is not None
        self._file = context.lora_file

    @property
    def _identity(self) -> dict[str, Any]:
        return self._context.identity("lora")

    def pending(self) -> tuple[WorkUnit, ...]:
        """Plan the training if there is no whole file that was made with these settings."""
        if lora.read_metadata(self._file).get("identity") == self._identity:
            return ()
        if self._file.is_file() and not lora.read_metadata(self._file):
            self._context.progress(Progress(self.name, 0, 0, f"{self._file} is damaged; the LoRA is trained again"))
        return (WorkUnit(self.name, 0, "LoRA", self._config.lora.steps),)

    def _do(self, unit: WorkUnit, on_progress: ProgressCallback) -> None:
        """Train the LoRA on the photos of the draw, from where a killed process was."""
        with files.lock(self._file.parent, wait=True), self._context.store.exclusive(self._file.parent):
            if not self.pending():  # another process made it for another arm meanwhile
                return
            checkpoint = Checkpoint(self._file.with_name(".training-lora.pt"), self._identity)
            trained = self._trainer().train(
                self._context.classes, on_progress, resume=checkpoint.last(), checkpoint=checkpoint.write
            )
            losses = [round(loss, 4) for loss in trained.losses]
            metadata = {"identity": self._identity, "base_model": self._context.base_model, "losses": losses}
            lora.write(self._file, trained.state, metadata)
            checkpoint.clear()

    def _trainer(self) -> LoraTrainer:
        context, config = self._context, self._config
        images = opened_photos.by_class(context.photos(), context.classes)
        return LoraTrainer(context.sampler, images=images, lora_config=config.lora, prompts_config=config.prompts)

    def publish(self) -> None:
        """Write nothing: the file says all."""
