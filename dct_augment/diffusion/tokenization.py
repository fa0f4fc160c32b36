"""Counts what a text encoder reads of a prompt, by its tokenizer alone: no weights are needed."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dct_augment import files
from dct_augment.diffusion.names import folder_here
from dct_augment.prompts import TOKEN_PATTERN

LENGTHS: Mapping[str, Mapping[str, int]] = {
    "PixArtSigmaPipeline": {"tokenizer": 300},
    "SanaPipeline": {"tokenizer": 300},
    "StableDiffusion3Pipeline": {"tokenizer_3": 256},
    "FluxPipeline": {"tokenizer_2": 512},
    "ZImagePipeline": {"tokenizer": 512},
}
"""Pieces of a prompt that a pipeline reads by each tokenizer, where that is not what the tokenizer says."""


def instruction_of(pipeline: str) -> str:
    """Return what a pipeline of diffusers puts before each prompt, as its signature has it; nothing but for SANA."""
    if pipeline != "SanaPipeline":
        return ""
    from diffusers import SanaPipeline

    lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return "\n".join(lines)


class PromptTokenizer:
    """A tokenizer, and how many pieces of a prompt its text encoder reads: `length`, with those of begin and end.

    An `instruction` stands before each prompt, and takes nothing of its length.
    """

    def __init__(self, tokenizer: Any, length: int | None = None, instruction: str = "") -> None:
        self.tokenizer, self.instruction = tokenizer, instruction
        self.length: int = length or tokenizer.model_max_length
        special = list(tokenizer("").input_ids)  # CLIP: begin and end; T5: end; Gemma: begin
        begins = special[:1] == [tokenizer.bos_token_id]
        self.begin, self.end = (special[:1], special[1:]) if begins else ([], special)
        # To Gemma, a word with a space before it is another piece than one without.
        self._reads_spaces = self._pieces(" a") != self._pieces("a")
        self._of_instruction = len(self.ids(instruction))

    @property
    def padded_length(self) -> int:
        """How many pieces the text encoder is given, with those of the instruction."""
        if not self.instruction:
            return self.length
        # As in the pipeline, which takes two off: begin, and the space before the prompt, which joins its first word.
        return self.length + len(self.begin) + len(self._pieces(self.instruction)) + len(self.end) - 2

    @property
    def room(self) -> int:
        """How many pieces the words of a prompt may have."""
        return self.padded_length - len(self.begin) - self._of_instruction - len(self.end)

    def _pieces(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def ids(self, text: str) -> list[int]:
        """The pieces of a text, without those of begin and end.

        Spaces after it do not count: a class token takes the one before it, as words do. Those before count to Gemma.
        """
        return self._pieces(text.rstrip() if self._reads_spaces else text.strip())

    def parts(self, prompt: str) -> list[list[int]]:
        """The pieces before, between and after the class tokens of a prompt; those of the instruction come first."""
        return [self.ids(part) for part in TOKEN_PATTERN.split(self.instruction + prompt)]

    def count(self, prompt: str, vectors: int = 0) -> int:
        """Count the pieces of a prompt, in which a class token is `vectors` pieces."""
        parts = self.parts(prompt)
        return sum(map(len, parts)) - self._of_instruction + vectors * (len(parts) - 1)

    def lost(self, prompt: str, vectors: int = 0) -> str:
        """Return the end of a prompt that the text encoder would cut; empty if it reads all of it."""
        if self.count(prompt, vectors) <= self.room:
            return ""
        room = self.room + self._of_instruction
        lost: list[str] = []
        for part in _parts(self.instruction + prompt):
            is_token = TOKEN_PATTERN.fullmatch(part) is not None
            pieces: list[int] = [] if is_token else self.ids(part)
            count = vectors if is_token else len(pieces)
            if is_token and count > room:
                lost.append(part)
            elif count > room:
                lost.append(self.tokenizer.decode(pieces[room:]).strip())
            room = max(room - count, 0)
        return " ".join(lost)


class ChatTokenizer(PromptTokenizer):
    """A tokenizer of a language model that reads each prompt as what a user says, in the model's chat template.

    The template takes of its length.
    """

    def __init__(self, tokenizer: Any, length: int) -> None:
        super().__init__(tokenizer, length)
        self.instruction, end = _chat(tokenizer)
        self.begin, self.end = [], self._pieces(end)
        self._of_instruction = len(self._pieces(self.instruction))

    @property
    def padded_length(self) -> int:
        """How many pieces the text encoder is given, with those of the template."""
        return self.length

    def parts(self, prompt: str) -> list[list[int]]:
        """The pieces before, between and after the class tokens of a prompt; those of the template come first.

        A class token takes the space before it, as words do.
        """
        *before, last = TOKEN_PATTERN.split(self.instruction + prompt.rstrip())
        return [*(self._pieces(text.rstrip()) for text in before), self._pieces(last)]


def _chat(tokenizer: Any) -> tuple[str, str]:
    """Write what stands before and after the words of a user in a chat template."""
    words = "<words>"
    message = [{"role": "user", "content": words}]
    # As in the pipeline of Z-Image; Qwen's template opens no thought of its own then.
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    before, _, after = text.partition(words)
    return before, after


def prompt_tokenizer(pipeline: str, part: str, tokenizer: Any) -> PromptTokenizer:
    """Make what reads prompts by a part of a pipeline of diffusers, such as `tokenizer_2`."""
    length = LENGTHS.get(pipeline, {}).get(part)
    if pipeline == "ZImagePipeline":
        return ChatTokenizer(tokenizer, length or tokenizer.model_max_length)
    return PromptTokenizer(tokenizer, length, instruction_of(pipeline))


def _parts(prompt: str) -> list[str]:
    """Split a prompt at its class tokens, and keep them."""
    parts: list[str] = []
    end = 0
    for token in TOKEN_PATTERN.finditer(prompt):
        parts += [prompt[end : token.start()], token[0]]
        end = token.end()
    return [*parts, prompt[end:]]


def tokenizers_here(path: str, revision: str | None) -> list[PromptTokenizer]:
    """Load the tokenizers of a text-to-image model if they are on this machine; nothing is downloaded.

    The list is empty if the model is not here, or broken: loading the model says what is wrong with it.
    """
    folder = folder_here(path, revision)
    if folder is None:
        return []
    try:
        return _load(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError):
        return []


def _load(folder: Path) -> list[PromptTokenizer]:
    import transformers

    index = files.load_json(folder / "model_index.json")
    tokenizers = []
    for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        library, kind = index.get(part) or ("", "")
        if library == "transformers":
            tokenizer = getattr(transformers, kind).from_pretrained(str(folder / part), local_files_only=True)
            tokenizers.append(prompt_tokenizer(index["_class_name"], part, tokenizer))
    return tokenizers
