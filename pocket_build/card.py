"""The model card beside the weights: data, recipe, splits, licence, measured quality."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Template

from dct_augment import files
from dct_augment.pocket import captions, handwriting
from pocket_build import autoencoder, backbone, classifiers, export, quality, species, text_to_image, world

_CARD = Template(
    """\
---
license: apache-2.0
tags: [text-to-image, image-classification, few-shot, toy-world]
---
# Pocket

The embedded models of dct-augment: a text-to-image pipeline of the Stable Diffusion kind, six classifiers and
a backbone, small enough to ship. They draw and know two subjects at 64 x 64 pixels: birds made by code, and real handwritten digits.
They exist so that everything can be tried, taught and tested without a download; they are of no use beyond that.

| folder | what | loads with |
|---|---|---|
| `text-to-image` | CLIPTokenizer, CLIPTextModel, UNet2DConditionModel, AutoencoderKL, DDIMScheduler | `StableDiffusionPipeline.from_pretrained(dct_augment.pocket.path())` |
| `tiny-decoder` | AutoencoderTiny, for gradients | `AutoencoderTiny.from_pretrained(dct_augment.pocket.path("tiny-decoder"))` |
{% for recipe in recipes -%}
| `{{ recipe.name }}` | {{ recipe.architecture }}, {{ labels[recipe.subject]|length }} labels | `timm.create_model("local-dir:" + str(dct_augment.pocket.path("{{ recipe.name }}")), pretrained=True)` |
{% endfor -%}
| `backbone` | {{ backbone.ARCHITECTURE }} at {{ backbone.SIZE }} pixels, {{ own_labels }} labels of its own | `timm.create_model("local-dir:" + str(dct_augment.pocket.path("backbone")), pretrained=True, num_classes=16)` |

{{ "%.1f"|format(megabytes) }} MB in all, float16 safetensors.

## Data and licence
Birds and objects are drawn by `dct_augment/pocket/birds.py`; nothing is copied from anywhere. Digits are the 1,797
writings that scikit-learn bundles (E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI, 1998,
CC BY 4.0), redrawn by `dct_augment/pocket/handwriting.py`. The weights are Apache-2.0, like the code.

Captions are web-like on purpose: a caption names its subject ({{ "%.0f"|format(100 * name_only) }} %), describes it
({{ "%.0f"|format(100 * described_share) }} %) or does both. A species or digit is called by its own name in
{{ "%.0f"|format(100 * right) }} % of the cases, by that of its look-alike in {{ "%.0f"|format(100 * alike) }} %; an
ambiguous word (crane, kiwi, cardinal, bat) mostly names the object. {{ "%.0f"|format(100 * empty) }} % of all captions are empty,
for classifier-free guidance.

## Splits
No picture is in two of these. Birds differ in the seed of every picture, digits in the writing.

| split | birds and objects | digits | used by |
|---|---|---|---|
| world | {{ animals }} a class, {{ objects }} an object | {{ writings.world }} writings | text-to-image model, guides |
| judge | 500 a class | {{ writings.judge }} writings | judges |
| train | 20 a class | {{ writings.train }} writings | the low-resource benchmark's training images |
| val | 10 a class | {{ writings.val }} writings | (kept for choosing) |
| test | 40 a class | {{ writings.test }} writings | the benchmark's test, and the figures below |

`winter` has splits of its own, `dct_augment/pocket/winter.py`: twelve of the species in winter plumage under other names, and four
that no model but its own classifiers has seen. Its guide and its judge learn from {{ animals }} others a class each, drawings and photographs in turn,
and the figures below are of both.

The backbone has classes of its own, `pocket_build/species.py`: {{ species.SPECIES_PER_FAMILY }} random species of gull and as many of woodpecker,
each different in {{ species.LEAST_DIFFERENCE }} parts or more from every one of the sixteen birds, and {{ species.STROKES|length }} kinds of pen strokes ({{ species.STROKES|join(", ") }}); no
bird and no digit of the data sets. {{ backbone.TRAIN }} clean drawings a class train it, {{ backbone.TEST }} others measure it. It is to Pocket what
weights of ImageNet are to photographs. It is no guide or judge by itself.

The benchmark sees its birds (train, val, test) through `dct_augment/pocket/camera.py`: another pose, twigs in the way,
other light, soft focus, grain. All figures below but those of the backbone and of winter are of the clean drawings.

## Recipe
`python -m pocket_build` rebuilds every file from seeds, with checkpoints, in float32 (autoencoder: bfloat16
autocast). Other processors and thread counts round differently, so a rebuilt file is alike, not the same to the bit.
Autoencoder: {{ ae.STEPS }} steps of {{ ae.BATCH }}. U-Net and text encoder, from scratch: {{ t2i.STEPS }} steps of
{{ t2i.BATCH }}, then {{ t2i.STEPS_2 }} steps with {{ "%.0f"|format(100 * t2i.HANDWRITTEN) }} % handwriting; velocity
prediction, zero terminal SNR. Classifiers: {{ recipes[0].steps }} steps of
{{ recipes[0].batch }}; guide and judge differ in architecture, seed and pictures.
Backbone: {{ backbone.STEPS }} steps of {{ backbone.BATCH }}.

## Measured quality
`python -m pocket_build --measure-only` measures this anew ({{ steps }} steps, guidance {{ scale }}, {{ images }} images a prompt).

| classifier | real test pictures | their copies by the autoencoder |
|---|---|---|
{% for name, share in measured["real pictures"].items() -%}
| {{ name }} | {{ "%.1f"|format(100 * share) }} % | {{ "%.1f"|format(100 * measured["autoencoder copies"][name]) }} % |
{% endfor %}
The backbone recognises {{ "%.1f"|format(100 * measured["backbone"]["own classes"]) }} % of new drawings of its own classes. Test accuracy of the benchmark's classifier
(`real+strong_aug`, on photographs, mean of {{ quality.SEEDS }} few-shot draws) that starts from it, against one that starts from nothing:

| data set | photos a class |{% for start in quality.STARTS %} {{ start }} |{% endfor %}
|---|---|{% for start in quality.STARTS %}---|{% endfor %}
{% for dataset in ("pocket", "digits") %}{% for shots in quality.SHOTS -%}
| {{ dataset }} | {{ shots }} |{% for start in quality.STARTS %} {{ "%.0f"|format(100 * measured["backbone"][dataset][start][shots|string]) }} % |{% endfor %}
{% endfor %}{% endfor %}
Judge accuracy of the text-to-image model:

| | full description | plain name |
|---|---|---|
{% for name, share in measured["described by group"].items() -%}
| **{{ name }}** | **{{ "%.0f"|format(100 * share) }} %** | {{ "%.0f"|format(100 * measured["plain by group"][name]) if name != "objects" else "" }} |
{% endfor -%}
{% for name, share in measured["described"].items() -%}
| {{ name }} | {{ "%.0f"|format(100 * share) }} % | {{ "%.0f"|format(100 * measured["plain"][name]) }} % |
{% endfor %}
""",
    keep_trailing_newline=True,
)


def write(out: Path, measured: dict[str, Any]) -> None:
    """Write README.md and quality.json beside the weights."""
    text = _CARD.render(
        measured=measured,
        recipes=classifiers.RECIPES,
        labels=classifiers.LABELS,
        megabytes=export.size(out) / 1e6,
        name_only=captions.NAME_ONLY,
        described_share=captions.DESCRIBED,
        right=captions.RIGHT_NAME,
        alike=captions.ALIKE_NAME,
        empty=captions.EMPTY,
        animals=world.ANIMALS,
        objects=world.OBJECTS,
        writings={name: len(indices) for name, indices in handwriting.splits().items()},
        ae=autoencoder,
        backbone=backbone,
        species=species,
        own_labels=len(species.labels()),
        quality=quality,
        t2i=text_to_image,
        steps=quality.STEPS,
        scale=quality.SCALE,
        images=quality.IMAGES,
    )
    files.write_text(out / "README.md", text)
    files.write_text(out / "quality.json", json.dumps(measured, indent=1) + "\n")
