"""Turns class names into the prompts of a zero-shot classifier, and checks that it reads all of them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dct_augment import prompts
from dct_augment.config import ZeroShotClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo

_SHOWN = 3


@dataclass(frozen=True)
class PromptReader:
    """A tokenizer as a zero-shot model's processor uses it.

    `positions` is how many pieces its text encoder has a place for, `kind` the `model_type` of its config.json.
    """

    tokenizer: Any
    positions: int
    kind: str

    @property
    def length(self) -> int:
        """How many pieces of a prompt are read, with those of begin and end."""
        return min(self.positions, int(self.tokenizer.model_max_length))

    def inputs(self, texts: Sequence[str]) -> dict[str, Any]:
        """Turn prompts into the text encoder's input, as tensors.

        SigLIP reads a prompt at its last place, and so pads all to its full length. CLIP pads to the longest one.
        """
        padding = "longest" if self.kind == "clip" else "max_length"
        pieces = self.tokenizer(
            [self._spelled(text) for text in texts], padding=padding, max_length=self.length, return_tensors="pt"
        )
        return {name: pieces[name] for name in ("input_ids", "attention_mask") if name in pieces}

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """List the pieces of each prompt, with those of begin and end."""
        return list(self.tokenizer([self._spelled(text) for text in texts], verbose=False)["input_ids"])

    def lost(self, text: str) -> str:
        """Return the end of a prompt that does not fit."""
        pieces = self.tokenizer(self._spelled(text), add_special_tokens=False, verbose=False)["input_ids"]
        room = self.length - (len(self.ids([text])[0]) - len(pieces))
        return str(self.tokenizer.decode(pieces[room:])).strip()

    def _spelled(self, text: str) -> str:
        """Write a text as the model was trained: SigLIP in lower case, though SigLIP 2 comes with Gemma's tokenizer."""
        return text if self.kind == "clip" else text.lower()


def of_classes(member: ZeroShotClassifierConfig, classes: Sequence[ClassInfo]) -> list[list[str]]:
    """Make the prompts of each class, one of each template, in order.

    Raises:
        ModelError: no classes, a template with an unknown field, or two classes of one name.
    """
    if not classes:
        raise ModelError(
            "a zero_shot classifier compares images with the names of classes: give the classes of a data set, as in "
            "load_classifier(config.guide, dataset.classes)"
        )
    for template in member.templates:
        unknown = [field for field in re.findall(r"\{[^{}]*\}", template) if field != prompts.CLASS_FIELD]
        if unknown:
            raise ModelError(
                f"zero_shot template {template!r} has the unknown field {unknown[0]}; only {prompts.CLASS_FIELD} is "
                "filled. Remove it"
            )
    names: dict[str, list[ClassInfo]] = defaultdict(list)
    for info in classes:
        names[info.name.casefold()].append(info)
    alike = [infos for infos in names.values() if len(infos) > 1]
    if alike:
        raise ModelError(
            f"zero_shot tells classes apart by name alone, and these have the same: {_listed(alike)}. Give each words "
            "of its own (dataset.words)"
        )
    return [[prompts.build(template, info.name, token=None) for template in member.templates] for info in classes]


def check_read(
    reader: PromptReader,
    class_prompts: Sequence[Sequence[str]],
    member: ZeroShotClassifierConfig,
    classes: Sequence[ClassInfo],
) -> None:
    """Check that the text encoder reads all of every prompt, and no two classes as the same.

    Raises:
        ModelError: one would be cut, and what it would lose; or classes whose letters the tokenizer does not know.
    """
    ids = reader.ids([prompt for of_class in class_prompts for prompt in of_class])
    count = len(member.templates)
    long: list[str] = []
    pieces: dict[str, list[ClassInfo]] = defaultdict(list)
    for place, (info, texts) in enumerate(zip(classes, class_prompts, strict=True)):
        own = ids[place * count : (place + 1) * count]
        pieces[str(own)].append(info)
        long += [text for text, text_ids in zip(texts, own, strict=True) if len(text_ids) > reader.length]
    if long:
        shown = "; ".join(f"{text!r} would lose {reader.lost(text)!r}" for text in long[:_SHOWN])
        more = f"; and {len(long) - _SHOWN} more" if len(long) > _SHOWN else ""
        raise ModelError(
            f"prompts are longer than the {reader.length} pieces (words, or parts of them) that the text encoder of "
            f"zero_shot model {member.model!r} reads: {shown}{more}. Shorten the templates, or the words of the class "
            "(dataset.words)"
        )
    alike = [infos for infos in pieces.values() if len(infos) > 1]
    if alike:
        raise ModelError(
            f"zero_shot model {member.model!r} reads these classes as the same, as it does not know their letters or "
            f"signs: {_listed(alike)}. Give each English words of its own (dataset.words), or a model of their language"
        )


def _listed(alike: Sequence[Sequence[ClassInfo]]) -> str:
    """Name groups of classes that are alike."""
    groups = []
    for infos in alike[:_SHOWN]:
        names = []
        for info in infos[:_SHOWN]:
            written = info.original_name and info.original_name != info.name
            names.append(f"{info.name!r} ({info.original_name})" if written else repr(info.name))
        groups.append(" and ".join(names))
    more = f"; and {len(alike) - _SHOWN} more" if len(alike) > _SHOWN else ""
    return "; ".join(groups) + more
