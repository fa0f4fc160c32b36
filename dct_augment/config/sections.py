"""The sections of the configuration, one per stage, and the whole of it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dct_augment.config import by_class
from dct_augment.config.base import FewShotSection, Fraction, PositiveInt, Section
from dct_augment.config.classifiers import Ensemble, is_few_shot
from dct_augment.config.datasets import DatasetConfig
from dct_augment.config.gradient_methods import DirectAlignConfig, GradientMethodConfig
from dct_augment.config.identity import Part, identity
from dct_augment.errors import InputError
from dct_augment.prompts import CLASS_FIELD, CONTEXT_FIELD, TOKEN_FIELD
from dct_augment.records import ClassInfo

SCHEMA_VERSION = 2
_START_WORD = "a"


class ModelConfig(Section):
    """The frozen text-to-image model: `pocket`, a local folder, or a Hub id."""

    path: str = Field("pocket", description="`pocket`, a folder that diffusers saved, or a Hub id")
    revision: str | None = Field(None, description="branch, tag or commit on the Hub")
    variant: str | None = Field(None, description="which files of the weights on the Hub, e.g. `fp16`")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="precision of the weights")
    tiny_decoder: str | None = Field(
        None,
        description="an AutoencoderTiny of the same latents for the gradients of training: folder, Hub id "
        "(madebyollin/taesd), or `pocket`; the autoencoder itself if unset",
    )
    compile: bool = Field(False, description="torch.compile the denoiser: slow to start, faster in long runs")
    memory: Literal["low", "balanced", "fast"] | None = Field(
        None, description="how to trade speed for memory; chosen from free memory if unset"
    )


class PromptsConfig(Section):
    """How a class becomes a prompt, in training and in generation alike."""

    templates: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("a photo of a {token} {class}{context}",),
        description="prompts in turn; each holds `{token}` and `{class}` once, and `{context}` if contexts are used",
    )
    contexts: tuple[str, ...] | dict[str, tuple[str, ...]] = Field(
        ("",),
        description="what stands for `{context}`, in turn: a list, a file with one a line, or `class: [contexts]`, "
        "where `default` is every class that is not named; a file is read once, with the configuration",
    )
    negative: str = Field("", description="what classifier-free guidance leads away from")

    @field_validator("templates")
    @classmethod
    def _fields(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        once = (TOKEN_FIELD, CLASS_FIELD)
        for template in templates:
            for field in once:
                if template.count(field) != 1:
                    raise ValueError(f"template {template!r} must hold {field} exactly once")
            for field in re.findall(r"\{\w*\}", template):
                if field not in (*once, CONTEXT_FIELD):
                    there_are = f"{', '.join(once)} and {CONTEXT_FIELD}"
                    raise ValueError(f"template {template!r} holds {field}; there are {there_are}")
        return templates

    @field_validator("contexts", mode="before")
    @classmethod
    def _read_contexts(cls, contexts: Any) -> Any:
        try:
            return by_class.read_contexts(contexts, "contexts")
        except InputError as error:
            raise ValueError(str(error)) from error

    @field_validator("contexts")
    @classmethod
    def _have_effect(
        cls, contexts: tuple[str, ...] | dict[str, tuple[str, ...]], info: ValidationInfo
    ) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
        """Refuse contexts that no template takes. Some templates may be without."""
        lists = contexts.values() if isinstance(contexts, dict) else [contexts]
        templates = info.data.get("templates", ())
        used = not templates or any(CONTEXT_FIELD in template for template in templates)
        if not used and any(any(texts) for texts in lists):
            raise ValueError(
                f"contexts have no effect: no template holds {CONTEXT_FIELD}. Put {CONTEXT_FIELD} into "
                "prompts.templates, or set prompts.contexts=['']"
            )
        return contexts

    def contexts_of(self, info: ClassInfo) -> tuple[str, ...]:
        """Return the contexts of a class, whatever is set for others."""
        if not isinstance(self.contexts, dict):
            return self.contexts
        return by_class.value_of(self.contexts, info) or self.contexts.get(by_class.DEFAULT, ("",))


class SamplingConfig(Section):
    """How an image is generated, in training and in generation alike."""

    scheduler: str | None = Field(None, description="diffusers scheduler class; the model's own if unset")
    num_inference_steps: PositiveInt = Field(30, description="denoising steps of an image")
    guidance_scale: Annotated[float, Field(ge=1, le=50)] = Field(
        7.0, description="scale of classifier-free guidance; 1 is no guidance"
    )


class TokensConfig(Section):
    """How class tokens are trained (paper, section 3)."""

    objective: Literal["classifier", "textual_inversion"] = Field(
        "classifier", description="whose gradient trains: the guide's, or that of a few real images (textual_inversion)"
    )
    method: GradientMethodConfig = Field(
        DirectAlignConfig(), description="the gradient method: its name, or `{name: ..., settings}`"
    )
    vectors: PositiveInt = Field(1, description="embedding vectors of a class token")
    init_word: str | dict[str, str] = Field(
        _START_WORD,
        description="word that a token starts from, the mean of its pieces if the tokenizer splits it; `{class}` is "
        "the class's own name; or `class: word`, where `default` is every class that is not named",
    )
    init_from: Path | None = Field(
        None, description="a token file, or a folder with <class-slug>.safetensors, to start from instead of init_word"
    )
    images_per_update: PositiveInt = Field(2, description="images of a class in one update")
    max_updates: PositiveInt = Field(120, description="updates of one attempt, at most")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        0.2, description="Adam step in units of the mean word norm, spread over all dimensions"
    )
    schedule: Literal["constant", "cosine"] = Field("constant", description="of the learning rate, over max_updates")
    max_norm: Annotated[float, Field(gt=0)] = Field(1.5, description="clamp, in units of the largest word norm")
    norm_prior: Annotated[float, Field(ge=0)] = Field(
        0.0, description="pull towards the mean word norm, in units of the classifier's gradient"
    )
    autocast: Literal["bfloat16", "float16"] | None = Field(
        None, description="precision of the denoiser and decoder in updates; token and optimiser stay float32"
    )
    validate_every: PositiveInt = Field(20, description="updates between two validations")
    validation_images: PositiveInt = Field(
        12, description="images of a validation, from noise that training does not use"
    )
    target_accuracy: Fraction = Field(
        0.9, description="share of validation images recognised by the guide that ends training early"
    )
    target_probability: Fraction = Field(0.75, description="mean probability of the class that ends training early")
    patience: PositiveInt = Field(2, description="validations without progress before stop or restart")
    restarts: Annotated[int, Field(ge=0)] = Field(2, description="how often a class may start again from another word")
    restart_words: Annotated[int, Field(ge=0)] = Field(
        128, description="vocabulary words tried as the start of a restart, those the gradient points to; 0: init_word"
    )
    give_up_below: Fraction = Field(
        0.05, description="mean probability of the class below which an attempt ends at its first validation"
    )
    restart_below_accuracy: Fraction = Field(0.8, description="restart only if the best accuracy is below this")
    certificate_images: Annotated[int, Field(ge=2)] = Field(
        24, description="fresh images with and without the token, by which it is certified"
    )
    min_diversity_ratio: Fraction = Field(
        0.5, description="diversity, over that of the plain prompt, below which a token is called collapsed"
    )
    classes_per_batch: PositiveInt = Field(
        8, description="classes trained in one batch; changes speed, and results by rounding only"
    )
    classes_per_work_unit: PositiveInt = Field(
        8, description="classes in one work unit; several workers train several of them"
    )
    seed: int = Field(0, description="decides the noise of training")

    @field_validator("init_word", mode="before")
    @classmethod
    def _check_words(cls, value: Any) -> Any:
        if value == {CLASS_FIELD.strip("{}"): None}:  # what YAML makes of it without quotes
            return CLASS_FIELD
        try:
            words = by_class.folded(value.items(), "init_word") if isinstance(value, Mapping) else value
        except InputError as error:
            raise ValueError(str(error)) from error
        texts = list(words.values()) if isinstance(words, dict) else [words]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f"must be a word such as {_START_WORD!r} or '{CLASS_FIELD}', or `class: word`")
        return words

    def init_word_of(self, info: ClassInfo) -> str:
        """Return the setting for a class, whatever is set for others; it may hold `{class}`."""
        if not isinstance(self.init_word, dict):
            return self.init_word
        return by_class.value_of(self.init_word, info) or self.init_word.get(by_class.DEFAULT, _START_WORD)

    def start_word(self, info: ClassInfo) -> str:
        """Return the words that the token of a class starts from."""
        return self.init_word_of(info).replace(CLASS_FIELD, info.name)


class TextualInversionConfig(FewShotSection):
    """How tokens are learned from a few real images (arXiv 2208.01618).

    Vectors, init_word, init_from and classes_per_batch are those of tokens; only the arm `textual_inversion` takes no
    init_from, which may know other images. The arm `textual_inversion` sets `shots`,
    `few_shot_seed` and `imbalance` to those of each of its trials.
    """

    few_shot_seed: int = Field(0, description="which few-shot draw the images are of, as benchmark.seed")
    imbalance: Annotated[float, Field(ge=1)] = Field(1.0, description="as benchmark.imbalance")
    steps: PositiveInt = Field(160, description="updates of a class")
    batch_size: PositiveInt = Field(4, description="noised few-shot images per step and class")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        0.1, description="AdamW step in units of the mean word norm, spread over all dimensions"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.01, description="of AdamW")
    seed: int = Field(0, description="decides the noise of training")


class GenerationConfig(Section):
    """How many images are generated, and how they are stored."""

    per_class: PositiveInt = Field(50, description="images of a class; a larger number adds images and changes none")
    shard_size: PositiveInt = Field(100, description="images per shard: the unit of work and of retry")
    batch_size: PositiveInt = Field(50, description="images generated at once; changes speed")
    image_format: Literal["png", "webp", "jpg"] = Field(
        "png", description="png and webp are without loss, jpg has quality 95"
    )
    allow_uncertified: bool = Field(False, description="use tokens that were not certified, too")
    seed: int = Field(0, description="decides the noise of every image")


Arm = Literal[
    "real",
    "real+strong_aug",
    "real+linear_probe",
    "plain_prompt",
    "textual_inversion",
    "class_token",
    "class_token_few_shot_guide",
    "class_token_filtered",
]


class DownstreamConfig(Section):
    """The low-resource classifier, and how it is trained: the same in every arm."""

    model: str = Field(
        "test_efficientnet_gn",
        description="any timm model: name, hf-hub:ID, or local-dir:FOLDER; or a list of them, whose first is this one "
        "and whose rest are other_models",
    )
    other_models: tuple[str, ...] = Field(
        (), description="models that are also trained and tested in each arm; the best one is kept"
    )
    pretrained: bool = Field(False, description="whether to start from the published weights of the model")
    train: Literal["fine_tune", "linear_probe"] = Field("fine_tune", description="all weights, or the last layer alone")
    image_size: PositiveInt | None = Field(None, description="side of its input, in pixels; the model's own if unset")
    preprocessing: Literal["model", "imagenet"] = Field(
        "model",
        description="`model`: the model's own mean, deviation, interpolation and crop; `imagenet`: ImageNet's mean and "
        "deviation, bilinear, nothing cut",
    )
    steps: PositiveInt = Field(100, description="gradient steps, the same in every arm")
    batch_size: PositiveInt = Field(32, description="images of a gradient step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with Nesterov momentum 0.9")
    learning_rate: Annotated[float, Field(gt=0)] = Field(5e-3, description="peak of the one-cycle schedule")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.05, description="of the optimiser")
    validation_rounds: PositiveInt = Field(
        4, description="how often the classifier is validated, evenly; the best state is tested"
    )
    randaugment: str = Field("rand-m7-n2-mstd0.5", description="timm's RandAugment, of all arms but real")
    mixup: Annotated[float, Field(ge=0)] = Field(0.0, description="timm's mixup alpha, of all arms but real")
    cutmix: Annotated[float, Field(ge=0)] = Field(0.0, description="timm's cutmix alpha, of all arms but real")
    synthetic_probability: Fraction = Field(
        0.7, description="share of training images that a synthetic image of the class replaces"
    )

    @model_validator(mode="before")
    @classmethod
    def _list_of_models(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("model"), list | tuple):
            return data
        first, *others = data["model"] or [""]
        return {**data, "model": first, "other_models": [*others, *data.get("other_models", ())]}

    @model_validator(mode="after")
    def _check(self) -> "DownstreamConfig":
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ValueError(f"mixup and cutmix need an even batch_size, not {self.batch_size}")
        if not all(self.models):
            raise ValueError("model must name a model, not be empty")
        if twice := sorted({name for name in self.models if self.models.count(name) > 1}):
            raise ValueError(f"model and other_models name {', '.join(twice)} twice")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """All models that are trained in each arm; arms are compared in charts and tables by the first."""
        return (self.model, *self.other_models)


FEW_SHOT_ARMS = ("real", "real+strong_aug", "plain_prompt", "class_token_few_shot_guide")
"""The arms of a run whose guide is made of the photos, if it names no others."""


class BenchmarkConfig(FewShotSection):
    """The trials: which arms the low-resource classifier is trained in, on which few-shot draws."""

    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = Field(
        ("real", "real+strong_aug", "plain_prompt", "class_token"),
        description="ways to train the classifier that are compared",
    )
    protocol: Literal["auto", "holdout", "cross_validation"] = Field(
        "auto",
        description="`holdout` tests on the test split; `cross_validation` tests each photo once a repeat, by a "
        "classifier, guide and tokens that have not seen it; `auto` takes it where a data set has no test split of its "
        "own and a held-out one would have fewer than 10 images of a class",
    )
    seeds: Annotated[int, Field(ge=2)] = Field(5, description="few-shot draws of holdout; every arm runs on each")
    folds: Annotated[int, Field(ge=2)] = Field(
        5, description="of cross-validation; at most as many as the smallest class has photos"
    )
    repeats: PositiveInt = Field(1, description="how often the photos are divided into folds anew")
    per_class: PositiveInt = Field(50, description="synthetic images per class in the synthetic arms")
    ratios: tuple[PositiveInt, ...] = Field((), description="further numbers of them, in units of shots: 1, 5, 10")
    per_class_curve: tuple[PositiveInt, ...] = Field((), description="further numbers of them")
    shots_curve: tuple[PositiveInt, ...] = Field(
        (), description="further shots, for the arms whose images do not depend on the real ones"
    )
    imbalance: Annotated[float, Field(ge=1)] = Field(
        1.0, description="long tail: the last class has shots / imbalance images"
    )
    filter_confidence: Fraction = Field(
        0.5, description="class_token_filtered keeps images that the guide gives their class at least so much"
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        0, description="the first few-shot seed, or the first repeat of cross-validation; the others follow it"
    )
    processes: PositiveInt | None = Field(
        None, description="trials side by side on a CPU, one per core if unset; changes speed, not results"
    )

    @property
    def draws(self) -> range:
        """The number of every draw of real images: a few-shot seed, or a fold: `repeat * folds + fold`."""
        if self.protocol == "cross_validation":
            return range(self.seed * self.folds, (self.seed + self.repeats) * self.folds)
        return range(self.seed, self.seed + self.seeds)


FULL_BENCHMARK = (
    f"benchmark.arms=[{', '.join(arm for arm in get_args(Arm) if arm != 'real+linear_probe')}]",
    "benchmark.seeds=6",  # of five pairs no exact test can say p < 0.05
    "benchmark.ratios=[1, 5, 10]",
    "benchmark.per_class_curve=[100, 200]",
    "benchmark.shots_curve=[1, 2, 5, 10, 20]",
    "generation.per_class=200",
)
"""What `dct-augment benchmark --full` sets, before the user's own settings."""


class MetricsConfig(Section):
    """How generated images are measured against real ones."""

    features: str | None = Field(
        "auto",
        description="where images are compared: judge, guide, inception, or a timm name "
        "(vit_small_patch14_dinov2.lvd142m, local-dir:FOLDER); auto: judge or guide, whichever gives features; unset: "
        "no metrics",
    )
    inception_weights: Path | None = Field(None, description="file of the FID Inception weights; downloaded if unset")
    per_class: PositiveInt = Field(50, description="images per class of each kind: equal numbers can be compared")
    real_images: Annotated[int, Field(ge=10)] = Field(10_000, description="most real images compared with")
    nearest_neighbours: PositiveInt = Field(5, description="k of precision, recall, density and coverage")
    bootstrap_resamples: Annotated[int, Field(ge=20)] = Field(200, description="of the bootstrap intervals")
    seed: int = Field(0, description="decides which real images are compared with, and the bootstrap")


class RunnerConfig(Section):
    """Where the work units of a flow run: groups of classes, shards, trials."""

    kind: Literal["thread", "dask", "ray"] = Field(
        "thread", description="`thread`: this process; `dask` and `ray`: worker processes, one per GPU"
    )
    workers: PositiveInt | None = Field(
        None, description="worker processes of a cluster of one's own; one per GPU, or two on a CPU, if unset"
    )
    address: str | None = Field(None, description="a running Dask or Ray cluster; started for the run if unset")
    retries: Annotated[int, Field(ge=0)] = Field(2, description="of a unit, after errors that may pass")
    retry_delay: Annotated[float, Field(ge=0)] = Field(15.0, description="seconds before a retry")

    @model_validator(mode="after")
    def _cluster(self) -> "RunnerConfig":
        if self.kind == "thread" and (self.workers or self.address):
            raise ValueError("workers and address are for kind: dask or ray")
        if self.workers and self.address:
            raise ValueError("workers are those that run at address; give one of the two")
        return self


class ReportConfig(Section):
    """What the report shows."""

    images_per_class: PositiveInt = Field(8, description="images shown of each class and kind of prompt")


class Config(Section):
    """The whole configuration. Only the outermost layer sees it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] = Field(
        description="letters, digits, - and _; names the run folder and the shards"
    )
    output: Path | None = Field(None, description="run folder; `runs/<name>` if unset")
    device: str = Field("auto", description="`auto` takes CUDA if there is one; or `cpu`, `cuda`, `cuda:1`")
    dataset: DatasetConfig
    model: ModelConfig = ModelConfig()
    guide: Ensemble
    judge: Ensemble | None = None
    prompts: PromptsConfig = PromptsConfig()
    sampling: SamplingConfig = SamplingConfig()
    tokens: TokensConfig = TokensConfig()
    textual_inversion: TextualInversionConfig = TextualInversionConfig()
    generation: GenerationConfig = GenerationConfig()
    downstream: DownstreamConfig = DownstreamConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    metrics: MetricsConfig = MetricsConfig()
    report: ReportConfig = ReportConfig()
    runner: RunnerConfig = RunnerConfig()
    on_class_failure: Literal["fail", "skip"] = Field(
        "fail", description="how a run ends when a class got no token; the others are done either way"
    )

    @model_validator(mode="before")
    @classmethod
    def _arms_of_a_few_shot_guide(cls, data: Any) -> Any:
        """With a guide that is made of the photos, compare tokens that know no photo but those of their draw."""
        if not isinstance(data, dict) or not is_few_shot(data.get("guide")):
            return data
        benchmark = data.get("benchmark", {})
        if not isinstance(benchmark, dict) or "arms" in benchmark:
            return data
        return {**data, "benchmark": {**benchmark, "arms": FEW_SHOT_ARMS}}

    @model_validator(mode="after")
    def _probe_needs_weights(self) -> "Config":
        if "real+linear_probe" in self.benchmark.arms and not self.downstream.pretrained:
            raise ValueError(
                "benchmark.arms: real+linear_probe trains one layer on a pretrained model; set downstream.pretrained: "
                "true, or leave it out"
            )
        return self

    @property
    def root(self) -> Path:
        """The run's folder."""
        return self.output or Path("runs") / self.name

    def identity(self, part: Part) -> dict[str, Any]:
        """Return the settings that decide a part's result, and nothing that only changes its speed."""
        return identity(self.model_dump(mode="json"), SCHEMA_VERSION, part)

    def narrow(self, whole: Mapping[str, Any], classes: Sequence[ClassInfo]) -> dict[str, Any]:
        """Return an identity as it is for work on these classes alone: without what is set for others.

        What all of them share is written as if it were set for all classes, so that a setting for one class makes
        nothing stale that is of another.
        """
        narrowed = dict(whole)
        if isinstance(self.prompts.contexts, dict) and "prompts" in whole:
            contexts = {info.slug: list(self.prompts.contexts_of(info)) for info in classes}
            narrowed["prompts"] = {**whole["prompts"], "contexts": _shared(contexts)}
        if isinstance(self.tokens.init_word, dict) and "tokens" in whole:
            words = {info.slug: self.tokens.init_word_of(info) for info in classes}
            narrowed["tokens"] = {**whole["tokens"], "init_word": _shared(words)}
        return narrowed


def _shared(by_slug: Mapping[str, Any]) -> Any:
    """Return the value that all classes have, or else the mapping."""
    values = list(by_slug.values())
    return values[0] if values and all(value == values[0] for value in values) else dict(by_slug)
