"""The stages of a run as units of work: what is missing, one unit of it, and the index of all.

A unit is what is resumed, retried, and given to another process or machine. Its plan is on disk before it begins, and
its result is a file that says itself what it was made of, so it does not matter who made it.
"""

from collections.abc import Callable, Mapping

from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.stages.arms import ArmStage
from dct_augment.pipeline.stages.classifier import ClassifierStage
from dct_augment.pipeline.stages.images import IMAGE_STAGES, ImageStage
from dct_augment.pipeline.stages.metrics import MetricStage
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.pipeline.stages.tokens import TokenStage
from dct_augment.pipeline.stages.trials import TrialStage
from dct_augment.records import ImageKind, StageName

__all__ = [
    "IMAGE_STAGES",
    "STAGES",
    "ArmStage",
    "ClassifierStage",
    "ImageStage",
    "MetricStage",
    "Stage",
    "TokenStage",
    "TrialStage",
]

STAGES: Mapping[StageName, Callable[[RunContext], Stage]] = {
    StageName.TOKENS: TokenStage,
    StageName.CLASS_TOKEN_IMAGES: lambda context: ImageStage(context, ImageKind.CLASS_TOKEN),
    StageName.PLAIN_PROMPT_IMAGES: lambda context: ImageStage(context, ImageKind.PLAIN_PROMPT),
    StageName.ARMS: ArmStage,
    StageName.BENCHMARK: TrialStage,
    StageName.METRICS: MetricStage,
    StageName.CLASSIFIER: ClassifierStage,
}
"""How each stage with work units is made, in the order of a run."""
