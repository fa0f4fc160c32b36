"""Makes a classifier of class names: CLIP or SigLIP compares an image with prompts of every class.

Of a class, the embeddings of all its prompts are normalised, averaged, and normalised again, as in section 3.1.4 of
Radford et al. 2021 (arXiv 2103.00020). Logits are the model's own: scale times cosine, for SigLIP plus its bias.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    CLIPModel,
    PreTrainedConfig,
    Siglip2Model,
    SiglipModel,
)

from dct_augment.classifiers import naflex
from dct_augment.classifiers.class_prompts import PromptReader, check_read, of_classes
from dct_augment.classifiers.classifier import SingleClassifier
from dct_augment.classifiers.names import ResolvedName, resolve_zero_shot
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.classifiers.transformers_models import BROKEN, checked_preprocess, quiet, reason_of
from dct_augment.config import ZeroShotClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo
from dct_augment.wording import what_loads_from_the_hub

_MODELS: Mapping[str, Any] = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model}
"""The model of each kind in a config.json. SigLIP 2 of one fixed size is a `siglip`; its NaFlex form is a `siglip2`."""
_PROMPTS_AT_ONCE = 256


class ZeroShotClassifier(SingleClassifier):
    """A classifier whose labels are the names of the classes that it was made of."""

    def targets(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        """Find the label of each class: its own name, to the letter.

        Raises:
            ModelError: the classifier was made of other classes.
        """
        places = {name: place for place, name in enumerate(self.labels)}
        missing = [info.name for info in classes if info.name not in places]
        if missing:
            raise ModelError(f"the zero_shot classifier was made of other classes, without {missing[:10]}")
        return tuple(places[info.name] for info in classes)


def load(member: ZeroShotClassifierConfig, classes: Sequence[ClassInfo], device: str) -> ZeroShotClassifier:
    """Load CLIP or SigLIP from a folder or the Hub as a classifier of these classes; no remote code.

    The classes must be given: their names are what the model compares images with. Its labels are these names, in
    order, its features the image's embedding. SigLIP is trained to give each class a probability of its own, the
    sigmoid of its logit; as guide or judge it is read as all classifiers are, by the softmax over the classes.

    Raises:
        ModelError: no classes, two that read alike, a prompt that would be cut, a template with an unknown field; a
            model that cannot be found or read, that is neither CLIP nor SigLIP, or whose weights are not complete.
    """
    quiet()
    prompts = of_classes(member, classes)
    source = resolve_zero_shot(member.model)
    kind = _kind(member, source)
    model, processor = _loaded(member, source, kind)
    reader = PromptReader(processor.tokenizer, model.config.text_config.max_position_embeddings, kind)
    check_read(reader, prompts, member, classes)
    preprocess, inputs = _image_side(processor.image_processor, kind, member.model)
    model.to(device).eval()
    try:
        network = ZeroShotNetwork(model, _embeddings(model, reader, prompts, device), inputs)
        with torch.no_grad():
            network(preprocess(torch.zeros(1, 3, 64, 64, device=device)))
    except (*BROKEN, IndexError) as error:
        raise ModelError(
            f"{_named(member)}: its parts do not fit together: {reason_of(error)}. Get its folder or repository anew"
        ) from error
    return ZeroShotClassifier(network, preprocess, [info.name for info in classes], device=device)


def check_here(member: ZeroShotClassifierConfig, classes: Sequence[ClassInfo]) -> bool:
    """Check the kind and the prompts of a zero-shot classifier by the small files of it that are on this machine.

    Returns:
        Whether they are here; nothing is downloaded. Damaged ones are not here: loading says what is wrong.

    Raises:
        ModelError: it is neither CLIP nor SigLIP, or its prompts cannot be used, as `load` says.
    """
    quiet()
    prompts = of_classes(member, classes)
    location = resolve_zero_shot(member.model).location
    options: dict[str, Any] = {"revision": member.revision, "local_files_only": True}
    try:
        settings, _ = PreTrainedConfig.get_config_dict(location, **options)
    except BROKEN:
        return False
    kind = _kind_in(settings, member)
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False, **options)
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False, **options)
    except BROKEN:
        return False
    check_read(PromptReader(tokenizer, config.text_config.max_position_embeddings, kind), prompts, member, classes)
    return True


class ZeroShotNetwork(nn.Module):
    """The image encoder, and as its last layer the embeddings of the classes, times the model's scale."""

    def __init__(
        self, model: Any, embeddings: torch.Tensor, inputs: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    ) -> None:
        """Take the model apart: what encodes text is not needed any more, and set free.

        Args:
            model: CLIP or SigLIP.
            embeddings: of the classes, (K, D), each of length 1.
            inputs: names pixels (B, 3, h, w) as the image encoder wants them.
        """
        super().__init__()
        self.body, self._inputs = model, inputs
        self.head = _head(model, embeddings)
        self.body.text_model = None

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, K) of pixels (B, 3, h, w) that are resized and normalised."""
        embedding = self.body.get_image_features(**self._inputs(pixels)).pooler_output
        return self.head(functional.normalize(embedding, dim=-1))


@torch.no_grad()
def _head(model: Any, embeddings: torch.Tensor) -> nn.Linear:
    """Make the layer that maps an image's embedding to `scale * cosine + bias`."""
    bias = getattr(model, "logit_bias", None)
    head = nn.Linear(embeddings.shape[1], len(embeddings), bias=bias is not None, device=embeddings.device)
    head.weight.copy_(model.logit_scale.exp() * embeddings)
    if bias is not None:
        head.bias.copy_(bias.expand(len(embeddings)))
    return head


@torch.no_grad()
def _embeddings(model: Any, reader: PromptReader, prompts: Sequence[Sequence[str]], device: str) -> torch.Tensor:
    """Compute the embedding of each class, (K, D), of length 1, from its prompts."""
    flat = [prompt for of_class in prompts for prompt in of_class]
    parts = []
    for start in range(0, len(flat), _PROMPTS_AT_ONCE):
        pieces = reader.inputs(flat[start : start + _PROMPTS_AT_ONCE])
        inputs = {name: values.to(device) for name, values in pieces.items()}
        parts.append(functional.normalize(model.get_text_features(**inputs).pooler_output, dim=-1))
    embeddings = torch.cat(parts).unflatten(0, (len(prompts), -1)).mean(1)
    return functional.normalize(embeddings, dim=-1)


def _image_side(
    processor: Any, kind: str, name: str
) -> tuple[Preprocess, Callable[[torch.Tensor], dict[str, torch.Tensor]]]:
    """Make an image processor differentiable; also what names its result as the image encoder wants it."""
    if kind == "siglip2":
        return naflex.checked_preprocess(processor, name), partial(naflex.patches, size=processor.patch_size)
    return checked_preprocess(processor, name), lambda pixels: {"pixel_values": pixels}


def _kind(member: ZeroShotClassifierConfig, source: ResolvedName) -> str:
    """Read from its config.json whether a model is CLIP or SigLIP.

    Raises:
        ModelError: it is neither, has no config.json, is not in the cache while offline, or cannot have a revision.
    """
    if source.is_local and member.revision:
        raise ModelError(
            f"{_named(member)} is not on the Hub, so it has no revision {member.revision!r}; remove the revision"
        )
    if source.is_local and not (Path(source.location) / "config.json").is_file():
        raise ModelError(
            f"{_named(member)}: no config.json in {source.location!r}; give a folder that transformers saved, or a Hub "
            "id such as 'openai/clip-vit-base-patch32'"
        )
    try:
        settings, _ = PreTrainedConfig.get_config_dict(source.location, revision=member.revision)
    except BROKEN as error:
        raise ModelError(_explain(member, error)) from error
    return _kind_in(settings, member)


def _kind_in(settings: Mapping[str, Any], member: ZeroShotClassifierConfig) -> str:
    """Read from a config.json whether a model is CLIP or SigLIP.

    Raises:
        ModelError: it is neither.
    """
    kind = str(settings.get("model_type"))
    if kind not in _MODELS:
        architecture = (settings.get("architectures") or [settings.get("architecture") or kind])[0]
        raise ModelError(
            f"{_named(member)} is neither CLIP nor SigLIP, but: {architecture}. Give a model that encodes images and "
            "text, such as 'openai/clip-vit-base-patch32' or 'google/siglip-base-patch16-224'"
        )
    return kind


def _loaded(member: ZeroShotClassifierConfig, source: ResolvedName, kind: str) -> tuple[Any, Any]:
    """Load the model and its processor.

    Raises:
        ModelError: not found, damaged, unsafe, or not complete.
    """
    options: dict[str, Any] = {"trust_remote_code": False, "revision": member.revision}
    try:
        processor = AutoProcessor.from_pretrained(source.location, **options)
        for part in ("image_processor", "tokenizer"):
            if getattr(processor, part, None) is None:
                raise ValueError(f"it has no {part.replace('_', ' ')}")
        model, loading = _MODELS[kind].from_pretrained(
            source.location, dtype=torch.float32, output_loading_info=True, revision=member.revision
        )
    except (pickle.UnpicklingError, EOFError) as error:
        raise ModelError(
            f"{_named(member)}: its .bin weights are damaged, or hold more than tensors, which is never run; give a "
            "repository or folder with safetensors"
        ) from error
    except BROKEN as error:
        raise ModelError(_explain(member, error)) from error
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"{_named(member)}: its weights lack {', '.join(missing[:4])}, so it is not a trained "
            f"{type(model).__name__}; give another one"
        )
    return model, processor


def _explain(member: ZeroShotClassifierConfig, error: BaseException) -> str:
    return (
        f"{_named(member)} cannot be loaded: {reason_of(error)}. Give the id or folder of a CLIP or SigLIP model that "
        f"transformers reads; {what_loads_from_the_hub()}"
    )


def _named(member: ZeroShotClassifierConfig) -> str:
    return f"zero_shot model {member.model!r}"
