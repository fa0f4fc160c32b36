"""How tokens are trained: by the gradient of a classifier, or from a few real images; and a LoRA from these."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from dct_augment.config import by_class
from dct_augment.config.base import (
    FewShotSection,
    Fraction,
    NotNegative,
    Positive,
    PositiveInt,
    Rate,
    Section,
    Seed,
    UserPath,
)
from dct_augment.config.gradient_methods import DirectAlignConfig, GradientMethodConfig
from dct_augment.errors import InputError
from dct_augment.prompts import CLASS_FIELD
from dct_augment.records import ClassInfo

_START_WORD = "a"


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
    init_from: UserPath | None = Field(
        None, description="a token file, or a folder with <class-slug>.safetensors, to start from instead of init_word"
    )
    images_per_update: PositiveInt = Field(2, description="images of a class in one update")
    plain_first: bool = Field(
        True,
        description="whether a class whose plain prompt reaches target_accuracy and target_probability gets no token; "
        "for the objective `classifier`",
    )
    max_updates: PositiveInt = Field(120, description="updates of one attempt, at most")
    learning_rate: Rate = Field(0.2, description="Adam step in units of the mean word norm, spread over all dimensions")
    photo_weight: NotNegative = Field(
        0.0,
        description="pull towards the training photos by the denoising loss of textual inversion, in units of the "
        "classifier's gradient; 0: no photo has a part in it",
    )
    photos_per_update: PositiveInt = Field(2, description="noised photos of a class in one update, with a photo_weight")
    photos_per_class: PositiveInt = Field(
        64, description="photos of a class that take part, at most, spread evenly over all; with a photo_weight"
    )
    schedule: Literal["constant", "cosine"] = Field("constant", description="of the learning rate, over max_updates")
    max_norm: Positive = Field(1.5, description="clamp, in units of the largest word norm")
    norm_prior: NotNegative = Field(
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
        24, description="fresh images with and without the token, at the first look of its certificate"
    )
    certificate_looks: PositiveInt = Field(
        3, description="looks of a certificate, at most; each doubles the images while nothing is decided"
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
    seed: Seed = Field(0, description="decides the noise of training")

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

    few_shot_seed: Seed = Field(0, description="which few-shot draw the images are of, as benchmark.seed")
    imbalance: Annotated[float, Field(ge=1)] = Field(1.0, description="as benchmark.imbalance")
    steps: PositiveInt = Field(160, description="updates of a class")
    batch_size: PositiveInt = Field(4, description="noised few-shot images per step and class")
    learning_rate: Rate = Field(
        0.1, description="AdamW step in units of the mean word norm, spread over all dimensions"
    )
    weight_decay: NotNegative = Field(0.01, description="of AdamW")
    seed: Seed = Field(0, description="decides the noise of training")


class LoraConfig(Section):
    """How a LoRA of the text-to-image model is learned from a few real images (arXiv 2106.09685).

    The arms `lora_plain_prompt` and `lora_class_token` train one for each draw: matrices beside the attention of the
    denoiser, by its denoising loss on the photos of the draw, with plain prompts and without contexts.
    """

    rank: PositiveInt = Field(8, description="of the matrices beside each projection")
    steps: PositiveInt = Field(600, description="updates, of all classes together; many classes need more")
    batch_size: PositiveInt = Field(8, description="noised photos of an update, of any class")
    learning_rate: Rate = Field(
        1e-4,
        description="AdamW step; usual for Stable Diffusion, and too small for Pocket, whose configurations say 0.001",
    )
    seed: Seed = Field(0, description="decides the first matrices, and photos and noise of training")
