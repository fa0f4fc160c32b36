"""Finds before any work what is wrong with prompts: classes that do not exist, words taken for tokens, or cut."""

from collections.abc import Iterator, Sequence
from itertools import islice, product

from dct_augment import prompts
from dct_augment.config import Config, PromptsConfig, by_class
from dct_augment.diffusion import Backend, PromptTokenizer
from dct_augment.errors import InputError
from dct_augment.records import ClassInfo

_SHOWN = 3
_MARGIN = 8
"""By so many pieces the sum of a prompt's parts may be wrong: words that touch are split otherwise."""


def check_class_names(config: Config, classes: Sequence[ClassInfo]) -> None:
    """Check that settings for single classes are for classes that exist; `default` is for all others.

    Raises:
        InputError: there is no such class.
    """
    for setting, values in (
        ("prompts.contexts", config.prompts.contexts),
        ("prompts.negative", config.prompts.negative),
        ("tokens.init_word", config.tokens.init_word),
    ):
        if isinstance(values, dict):
            by_class.check_classes(values.keys() - {by_class.DEFAULT}, classes, setting)


def check_words(config: Config, classes: Sequence[ClassInfo]) -> None:
    """Check that no words of a prompt look like a class token, which has vectors of its own, or are no letters.

    Raises:
        InputError: some do.
    """
    settings = config.prompts
    contexts = {context for info in classes for context in settings.contexts_of(info)}
    for words, setting in (
        *((info.name, "dataset.words") for info in classes),
        *((template, "prompts.templates") for template in settings.templates),
        *((context, "prompts.contexts") for context in sorted(contexts)),
        *((negative, "prompts.negative") for negative in settings.negatives),
    ):
        if half := next((letter for letter in words if "\ud800" <= letter <= "\udfff"), ""):
            raise InputError(f"{words!r} holds half a letter, {half!r}, which no text encoder reads. Correct {setting}")
        if found := prompts.TOKEN_PATTERN.search(words):
            raise InputError(
                f"{words!r} holds {found[0]}, which stands for a class token. Say it otherwise in {setting}"
            )


def check_start_words(backend: Backend, config: Config, classes: Sequence[ClassInfo]) -> None:
    """Check that the model knows the words that tokens start from.

    Raises:
        ModelError: it lacks one.
    """
    for word in sorted({config.tokens.start_word(info) for info in classes}):
        backend.word(word)


def check_lengths(tokenizers: Sequence[PromptTokenizer], config: Config, classes: Sequence[ClassInfo]) -> None:
    """Check that the text encoders read all of every prompt, with a class token or without, and the negative one.

    Raises:
        InputError: one would be cut; shows it, and what would be lost.
    """
    settings = config.prompts
    for tokenizer in tokenizers:
        for negative in settings.negatives:
            if lost := tokenizer.lost(negative.lower()):
                raise InputError(
                    f"prompts.negative {negative!r} is longer than the {tokenizer.room} pieces that the model's text "
                    f"encoder reads: it would lose {lost!r}. Shorten it"
                )
        cut = list(islice(_cut_prompts(tokenizer, settings, config.tokens.vectors, classes), _SHOWN + 1))
        if cut:
            shown = "; ".join(f"{prompt!r} would lose {lost!r}" for prompt, lost in cut[:_SHOWN])
            more = "; and more" if len(cut) > _SHOWN else ""
            raise InputError(
                f"prompts are longer than the {tokenizer.room} pieces (words, or parts of them) that the model's text "
                f"encoder reads: {shown}{more}. Shorten prompts.templates, prompts.contexts or the words of the class "
                f"(dataset.words); a class token takes as many pieces as tokens.vectors, {config.tokens.vectors}"
            )


def _cut_prompts(
    tokenizer: PromptTokenizer, settings: PromptsConfig, vectors: int, classes: Sequence[ClassInfo]
) -> Iterator[tuple[str, str]]:
    """Yield every prompt with a class token that would be cut, and what it would lose.

    The parts are measured once each: many classes and contexts make far more prompts than can be tokenized.
    """
    templates = max(tokenizer.count(prompts.build(template, "", token=None).lower()) for template in settings.templates)
    longest: dict[tuple[str, ...], int] = {}
    for info in classes:
        contexts = settings.contexts_of(info)
        if contexts not in longest:
            longest[contexts] = max(tokenizer.count(context.lower()) for context in contexts)
        if templates + longest[contexts] + tokenizer.count(info.name.lower()) + vectors + _MARGIN <= tokenizer.room:
            continue
        for template, context in product(settings.templates, contexts):
            prompt = prompts.build(template, info.name, token=f"<dct-{info.slug}>", context=context)
            if lost := tokenizer.lost(prompt.lower(), vectors):
                yield prompt, lost
