"""The sections of the configuration, one per stage, and the whole of it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dct_augment.config import by_class
from dct_augment.config.base import CONFUSED_CLASS, Fraction, OutputPath, PositiveInt, Section, Seed
from dct_augment.config.benchmark import FEW_SHOT_ARMS, BenchmarkConfig, DownstreamConfig, MetricsConfig
from dct_augment.config.classifiers import Ensemble, is_few_shot
from dct_augment.config.datasets import DatasetConfig
from dct_augment.config.identity import INIT_FROM_HASH, Part, identity
from dct_augment.config.tokens import LoraConfig, TextualInversionConfig, TokensConfig
from dct_augment.errors import InputError
from dct_augment.prompts import CLASS_FIELD, CONTEXT_FIELD, TOKEN_FIELD
from dct_augment.records import ClassInfo
from dct_augment.remote import urls

SCHEMA_VERSION = 2


class AdapterConfig(Section):
    """LoRA weights that others trained, which are added to those of the text-to-image model."""

    path: str = Field(description="a `.safetensors` file, a folder with one, or a Hub id")
    weight: Annotated[float, Field(ge=-10, le=10)] = Field(1.0, description="by how much it is added")
    name: str | None = Field(None, description="what it is called in messages; the end of its path if unset")
    revision: str | None = Field(None, description="branch, tag or commit on the Hub")
    weight_name: str | None = Field(None, description="which file, where a folder or a Hub id has several")

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or Path(self.path).name.removesuffix(".safetensors")


class ModelConfig(Section):
    """The frozen text-to-image model: `pocket`, a local folder, or a Hub id."""

    path: str = Field("pocket", description="`pocket`, a folder that diffusers saved, or a Hub id")
    revision: str | None = Field(None, description="branch, tag or commit on the Hub")
    variant: str | None = Field(None, description="which files of the weights on the Hub, e.g. `fp16`")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="precision of the weights")
    image_size: Annotated[int, Field(ge=1, le=8192)] | None = Field(
        None, description="side of an image in pixels; the model's own if unset"
    )
    tiny_decoder: str | None = Field(
        None,
        description="an AutoencoderTiny of the same latents for the gradients of training: folder, Hub id "
        "(madebyollin/taesd), or `pocket`; the autoencoder itself if unset",
    )
    compile: bool = Field(False, description="torch.compile the denoiser: slow to start, faster in long runs")
    memory: Literal["low", "balanced", "fast"] | None = Field(
        None, description="how to trade speed for memory; chosen from free memory if unset"
    )
    adapters: tuple[AdapterConfig, ...] = Field(
        (), description="LoRA weights to add to those of the model, for training and generation alike"
    )

    @field_validator("adapters")
    @classmethod
    def _differ(cls, adapters: tuple[AdapterConfig, ...]) -> tuple[AdapterConfig, ...]:
        titles = [adapter.title for adapter in adapters]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"two adapters are called {title!r}; give each a name of its own")
        return adapters


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
    negative: str | dict[str, str] = Field(
        "",
        description="what classifier-free guidance leads away from: a text, or `class: text`, where `default` is every "
        f"class that is not named; `{CONFUSED_CLASS}`: in generation, the class that the guide takes its images for",
    )

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

    @field_validator("negative", mode="before")
    @classmethod
    def _fold_negative(cls, negative: Any) -> Any:
        try:
            texts = by_class.folded(negative.items(), "negative") if isinstance(negative, Mapping) else negative
        except InputError as error:
            raise ValueError(str(error)) from error
        if not all(isinstance(text, str) for text in (texts.values() if isinstance(texts, dict) else [texts])):
            raise ValueError("must be a text such as 'blurry', or `class: text`")
        if isinstance(texts, dict) and CONFUSED_CLASS in texts.values():
            raise ValueError(f"{CONFUSED_CLASS!r} is for all classes: negative: {CONFUSED_CLASS}")
        return texts

    @property
    def leads_away_from_tokens(self) -> bool:
        """Whether an image with a class token is led away from the token of another class."""
        return self.negative == CONFUSED_CLASS

    @property
    def negatives(self) -> tuple[str, ...]:
        """All negative prompts that are texts: that of classes which have none of their own comes first."""
        if not isinstance(self.negative, dict):
            return ("" if self.leads_away_from_tokens else self.negative,)
        return tuple(dict.fromkeys([self.negative.get(by_class.DEFAULT, ""), *self.negative.values()]))

    def negative_of(self, info: ClassInfo) -> str:
        """Return the negative prompt of a class."""
        own = by_class.value_of(self.negative, info) if isinstance(self.negative, dict) else None
        return self.negatives[0] if own is None else own

    def contexts_of(self, info: ClassInfo) -> tuple[str, ...]:
        """Return the contexts of a class, whatever is set for others."""
        if not isinstance(self.contexts, dict):
            return self.contexts
        return by_class.value_of(self.contexts, info) or self.contexts.get(by_class.DEFAULT, ("",))


class SamplingConfig(Section):
    """How an image is generated, in training and in generation alike."""

    scheduler: str | None = Field(None, description="diffusers scheduler class; the model's own if unset")
    num_inference_steps: int = Field(30, ge=1, le=1000, description="denoising steps of an image")
    guidance_scale: Annotated[float, Field(ge=1, le=50)] = Field(
        7.0, description="scale of classifier-free guidance; 1 is no guidance"
    )


Strength = Annotated[float, Field(gt=0, lt=1)]


def steps_of_strength(strength: float, steps: int) -> int:
    """Count the last denoising steps that an image goes through from its start image, 1 at least (arXiv 2108.01073)."""
    return max(round(strength * steps), 1)


class GenerationConfig(Section):
    """How many images are generated, what they start from, and how they are stored."""

    per_class: PositiveInt = Field(50, description="images of a class; a larger number adds images and changes none")
    shard_size: PositiveInt = Field(100, description="images per shard: the unit of work and of retry")
    batch_size: PositiveInt = Field(50, description="images generated at once; changes speed")
    image_format: Literal["png", "webp", "jpg"] = Field(
        "png", description="png and webp are without loss, jpg has quality 95"
    )
    allow_uncertified: bool = Field(False, description="use tokens that were not certified, too")
    seed: Seed = Field(0, description="decides the noise of every image, and its start image")
    start: Literal["noise", "same_class", "any_class"] = Field(
        "noise",
        description="what denoising begins with: noise alone, or a training photo with noise on it, of the same class "
        "or of any class",
    )
    strengths: Annotated[tuple[Strength, ...], Field(min_length=1)] = Field(
        (0.8,),
        description="the share of the denoising steps that an image goes through from its start image, in turn; a "
        "lower one keeps more of the photo",
    )
    guidance_scale: Annotated[float, Field(ge=1, le=50)] | None = Field(
        None,
        description="guidance of generated images where it is not that of training; `sampling.guidance_scale` if unset",
    )

    token_noise: Fraction = Field(
        0.0,
        description="each image is generated with its class token plus Gaussian noise of its own, whose length is this "
        "share of the token's: 0.1 is a tenth; plain prompts have none",
    )

    @model_validator(mode="after")
    def _strengths_have_effect(self) -> "GenerationConfig":
        default = type(self).model_fields["strengths"].default
        if self.start == "noise" and self.strengths != default:
            raise ValueError(
                "strengths have no effect with start: noise; set start: same_class or any_class, or leave them out"
            )
        return self


class RunnerConfig(Section):
    """Where the work units of a flow run: groups of classes, shards, trials."""

    kind: Literal["thread", "dask", "ray"] = Field(
        "thread",
        description="`thread`: this process, or some of it on a CPU; `dask` and `ray`: worker processes, one per GPU",
    )
    workers: PositiveInt | None = Field(
        None, description="worker processes of a cluster of one's own; one per GPU, or two on a CPU, if unset"
    )
    processes: PositiveInt | None = Field(
        None,
        description="of kind `thread`: processes of one thread each that do units side by side on a CPU; with Pocket "
        "one per core where the work is worth it, else none, if unset",
    )
    address: str | None = Field(None, description="a running Dask or Ray cluster; started for the run if unset")
    retries: Annotated[int, Field(ge=0)] = Field(2, description="of a unit, after errors that may pass")
    retry_delay: Annotated[float, Field(ge=0)] = Field(15.0, description="seconds before a retry")
    lease: Annotated[float, Field(ge=4)] = Field(
        60, description="seconds after which a machine that gives no sign of life no longer holds a run on a store"
    )

    @model_validator(mode="after")
    def _cluster(self) -> "RunnerConfig":
        if self.kind == "thread" and (self.workers or self.address):
            raise ValueError("workers and address are for kind: dask or ray; processes is for thread")
        if self.kind != "thread" and self.processes:
            raise ValueError("processes is for kind: thread; the processes of dask and ray are workers")
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
    output: OutputPath | None = Field(
        None, description="run folder, or the URL of one: `s3://bucket/run`, `gs://bucket/run`; `runs/<name>` if unset"
    )
    device: str = Field("auto", description="`auto` takes CUDA if there is one; or `cpu`, `cuda`, `cuda:1`")
    dataset: DatasetConfig
    model: ModelConfig = ModelConfig()
    guide: Ensemble
    judge: Ensemble | None = None
    prompts: PromptsConfig = PromptsConfig()
    sampling: SamplingConfig = SamplingConfig()
    tokens: TokensConfig = TokensConfig()
    textual_inversion: TextualInversionConfig = TextualInversionConfig()
    lora: LoraConfig = LoraConfig()
    generation: GenerationConfig = GenerationConfig()
    downstream: DownstreamConfig = DownstreamConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    metrics: MetricsConfig = MetricsConfig()
    report: ReportConfig = ReportConfig()
    runner: RunnerConfig = RunnerConfig()
    on_class_failure: Literal["fail", "skip"] = Field(
        "fail",
        description="how a run ends when the loss of a class was not finite, so that it got no token; the others are "
        "done either way. A class that needs no token, or for which the few-shot guide is refused, is no failure",
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

    @model_validator(mode="after")
    def _arms_are_with_the_run(self) -> "Config":
        if self.url is not None and self.benchmark.arms_folder is not None:
            raise ValueError(
                f"benchmark.arms_folder {str(self.benchmark.arms_folder)!r} is a folder of this machine, and output is "
                "on a store; leave it out, and the arms are with the run"
            )
        return self

    @model_validator(mode="after")
    def _arms_are_beside_what_the_run_keeps(self) -> "Config":
        if self.url is None and self.benchmark.arms_folder is not None:
            root, arms = self.root.absolute(), self.benchmark.arms_folder.absolute()
            if arms.is_relative_to(root) and arms != root / "arms":
                raise ValueError(
                    f"benchmark.arms_folder {str(self.benchmark.arms_folder)!r} lies in the run folder, which keeps "
                    "its own files there; leave it out, or give a folder outside"
                )
        return self

    @model_validator(mode="after")
    def _strengths_keep_something(self) -> "Config":
        steps, generation = self.sampling.num_inference_steps, self.generation
        if generation.start == "noise":
            return self
        for strength in generation.strengths:
            if steps_of_strength(strength, steps) == steps:
                smaller = f"a strength of {(steps - 1) / steps:.2g} or less" if steps > 1 else "start: noise"
                raise ValueError(
                    f"generation.strengths: {strength:g} of {steps} sampling.num_inference_steps is all of them, which "
                    f"keeps nothing of the start image. Set {smaller}, or more steps"
                )
        return self

    @property
    def url(self) -> str | None:
        """The URL of a run that is on a store; None if it is in a folder of this machine."""
        return None if self.output is None else urls.url_of(self.output)

    @property
    def root(self) -> Path:
        """The run's folder; of a run on a store, the folder of this machine that mirrors it."""
        if self.url is not None:
            return urls.mirror(self.url)
        return self.output or Path("runs") / self.name

    def output_of(self, folder: Path) -> Path:
        """Name a folder inside the run's as the output of another run: by its URL where the run has one."""
        if self.url is None or not folder.is_relative_to(self.root):
            return folder
        return Path(self.url) / folder.relative_to(self.root)

    def named(self, path: Path) -> str:
        """Name a file or folder of the run in a message: by its URL where the run has one."""
        return urls.written(self.output_of(path))

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
        if isinstance(self.prompts.negative, dict) and "negative" in whole.get("prompts", {}):
            negatives = {info.slug: self.prompts.negative_of(info) for info in classes}
            narrowed["prompts"] = {**narrowed["prompts"], "negative": _shared(negatives)}
        if isinstance(self.tokens.init_word, dict) and "tokens" in whole:
            words = {info.slug: self.tokens.init_word_of(info) for info in classes}
            narrowed["tokens"] = {**narrowed["tokens"], "init_word": _shared(words)}
        starts = whole.get("tokens", {}).get(INIT_FROM_HASH)
        if isinstance(starts, Mapping):
            hashes = {info.slug: starts.get(info.slug) for info in classes}
            narrowed["tokens"] = {**narrowed["tokens"], INIT_FROM_HASH: _shared(hashes)}
        return narrowed


def _shared(by_slug: Mapping[str, Any]) -> Any:
    """Return the value that all classes have, or else the mapping."""
    values = list(by_slug.values())
    return values[0] if values and all(value == values[0] for value in values) else dict(by_slug)
