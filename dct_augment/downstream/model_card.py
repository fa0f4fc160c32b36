"""The model card of a kept classifier: a README with the YAML that the Hub reads."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dct_augment.wording import counted

_MOST_CLASSES = 200
_MOST_CONFUSIONS = 10
_MATRIX = 20  # classes of the largest matrix that is shown


def write_card(metadata: Mapping[str, Any], folder: Path) -> str:
    """Write the text of README.md from the content of `classifier.json`; `folder` is where the classifier will be."""
    sections = (
        _header(metadata),
        _title(metadata),
        _accuracy(metadata),
        _confusion(metadata),
        _data(metadata),
        _intended_use(metadata),
        _how_to_use(metadata, folder),
        _preprocessing(metadata),
        _made_from(metadata),
    )
    return "\n".join(line for section in sections for line in [*section, ""]).rstrip("\n") + "\n"


def _header(metadata: Mapping[str, Any]) -> Iterator[str]:
    header: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "few-shot", "dct-augment"],
    }
    if _synthetic(metadata):
        header["tags"].append("synthetic")
    yield "---"
    yield "# license: yours to state; those of the weights, the photos and the text-to-image model may limit it"
    yield yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip("\n")
    yield "---"


def _title(metadata: Mapping[str, Any]) -> Iterator[str]:
    names = [info["label"] for info in metadata["classes"]]
    of = f" of {_text(metadata['dataset'])}" if metadata["dataset"] else ""
    yield f"# Classifier{of}: {counted(len(names), 'class')}"
    yield ""
    photos, synthetic = _photos(metadata), _synthetic(metadata)
    model = metadata["model"]
    start = "its published weights" if model["pretrained"] else "random weights"
    how = "its last layer alone was trained" if model["train"] == "linear_probe" else "all weights were trained"
    images = counted(photos, "photo") + (f" and {counted(synthetic, 'generated image')}" if synthetic else "")
    yield f"An image classifier, made by dct-augment from {images}."
    yield f"The model is {_code(model['name'])}, from {start}; {how}."


def _accuracy(metadata: Mapping[str, Any]) -> Iterator[str]:
    yield "## Accuracy"
    yield ""
    accuracy = metadata["accuracy"]
    if accuracy is None:
        yield "It was not measured."
    else:
        yield f"{_percent(accuracy)} of new pictures. {_text(accuracy['method'])}"
        chance = accuracy["chance"]
        if chance is not None and accuracy["low"] <= chance:
            yield f"That is not clearly better than always answering the most frequent class ({chance:.1%})."
    if metadata["finding"]:
        yield ""
        yield _text(metadata["finding"])
    if metadata["arms"]:
        yield ""
        method = next(iter(metadata["arms"].values()))["method"]
        yield f"Ways to train it (arms) that were compared ({_text(method)}):"
        yield ""
        yield "| arm | accuracy | 95 % interval | |"
        yield "| --- | --- | --- | --- |"
        for name, estimate in metadata["arms"].items():
            kept = "this classifier" if name == metadata["arm"] else ""
            interval = f"{estimate['low']:.1%} to {estimate['high']:.1%}"
            yield f"| {_code(name)} | {estimate['mean']:.1%} | {interval} | {kept} |"
    yield ""
    error = metadata["calibration_error"]
    measured = "" if error is None else f" Their expected calibration error is {error:.1%} (15 bins)."
    yield f"Probabilities are those of the logits divided by the temperature {metadata['temperature']:.3g}.{measured}"
    if metadata["threshold"] is not None:
        yield f"A picture whose class has a probability below {metadata['threshold']:g} is `unknown`."


def _confusion(metadata: Mapping[str, Any]) -> Iterator[str]:
    """List what is taken for what; of few classes the whole matrix, too."""
    counts = metadata["confusion"]
    if counts is None:
        return
    names = [info["label"] for info in metadata["classes"]]
    yield "## What is taken for what"
    yield ""
    mistakes = _mistakes(counts)
    if not mistakes:
        yield "Every picture that was measured got its own class."
    else:
        yield "| true class | predicted class | pictures |"
        yield "| --- | --- | --- |"
        for count, true, predicted in mistakes[:_MOST_CONFUSIONS]:
            yield f"| {_text(names[true])} | {_text(names[predicted])} | {count} of {sum(counts[true])} |"
    if len(names) <= _MATRIX:
        yield ""
        yield "All of them; a row is a true class, a column a predicted one, in the order of the classes:"
        yield ""
        yield "| | " + " | ".join(str(index) for index in range(len(names))) + " |"
        yield "| --- |" + " --- |" * len(names)
        for index, (name, row) in enumerate(zip(names, counts, strict=True)):
            yield f"| {index} {_text(name)} | " + " | ".join(map(str, row)) + " |"


def _mistakes(counts: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """List the mistakes as (count, true, predicted), the most frequent first."""
    mistakes = []
    for true, row in enumerate(counts):
        for predicted, count in enumerate(row):
            if count and true != predicted:
                mistakes.append((count, true, predicted))
    return sorted(mistakes, key=lambda mistake: (-mistake[0], mistake[1:]))


def _data(metadata: Mapping[str, Any]) -> Iterator[str]:
    yield "## Training data"
    yield ""
    yield "| label | class | called in the data | photos | generated images |"
    yield "| --- | --- | --- | --- | --- |"
    for info in metadata["classes"][:_MOST_CLASSES]:
        names = f"{_text(info['label'])} | {_text(info['original_name'])}"
        yield f"| {info['index']} | {names} | {info['photos']} | {info['synthetic']} |"
    if len(metadata["classes"]) > _MOST_CLASSES:
        yield ""
        yield f"And {len(metadata['classes']) - _MOST_CLASSES:,} more; `classifier.json` has all."


def _intended_use(metadata: Mapping[str, Any]) -> Iterator[str]:
    yield "## What it is for, and what not"
    yield ""
    yield "It tells these classes apart in pictures like its training photos: the same kind of camera, light and view."
    yield ""
    yield "Do not use it"
    yield ""
    yield "- where a mistake harms somebody: medicine, safety, law, anything that decides about people;"
    yield "- for pictures of other classes: it gives each picture one of its own, unless you set a threshold;"
    yield "- for pictures of another kind than the photos, without a new measurement;"
    yield "- as a proof: a high probability is no certainty, and was calibrated on few pictures."
    if _synthetic(metadata):
        yield ""
        yield "Generated images may bring in what the text-to-image model gets wrong: typical views, places, colours."


def _how_to_use(metadata: Mapping[str, Any], folder: Path) -> Iterator[str]:
    name = folder.name or "classifier"
    yield "## How to use it"
    yield ""
    yield "```bash"
    yield f"dct-augment predict {name} pictures/"
    yield "```"
    yield ""
    yield "```python"
    yield "import dct_augment"
    yield ""
    yield f'classifier = dct_augment.load_classifier("{name}")'
    yield 'classifier.predict(["picture.jpg"])'
    yield "```"
    yield ""
    yield "With timm alone; divide the logits by the temperature for calibrated probabilities:"
    yield ""
    yield "```python"
    yield "import timm"
    yield ""
    yield f'model = timm.create_model("local-dir:{name}", pretrained=True).eval()'
    yield "data = timm.data.resolve_model_data_config(model)"
    yield "transform = timm.data.create_transform(**data, is_training=False)"
    yield "```"


def _preprocessing(metadata: Mapping[str, Any]) -> Iterator[str]:
    steps = metadata["model"]["preprocessing"]
    _, height, width = steps["input_size"]
    yield "## Preprocessing"
    yield ""
    yield (
        f"{height} x {width} pixels, {steps['interpolation']}, the middle {steps['crop_pct']:.1%} of the picture "
        f"({steps['crop_mode']}), mean {_numbers(steps['mean'])}, deviation {_numbers(steps['std'])}."
    )


def _made_from(metadata: Mapping[str, Any]) -> Iterator[str]:
    yield "## What made it"
    yield ""
    yield f"Arm {_code(metadata['arm'])}. SHA-256 of the files here, and hashes of what they were made from:"
    yield ""
    yield "| what | hash |"
    yield "| --- | --- |"
    for name, value in {**metadata["files"], **metadata["made_from"]}.items():
        yield f"| {_text(name)} | {_code(str(value))} |"


def _photos(metadata: Mapping[str, Any]) -> int:
    return sum(info["photos"] for info in metadata["classes"])


def _synthetic(metadata: Mapping[str, Any]) -> int:
    return sum(info["synthetic"] for info in metadata["classes"])


def _percent(estimate: Mapping[str, Any]) -> str:
    return f"{estimate['mean']:.1%} (95 % interval {estimate['low']:.1%} to {estimate['high']:.1%})"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _text(text: str) -> str:
    """Keep a text within one line and one table cell, without markup."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for sign in ("\\", "|", "*", "_", "`", "[", "]"):
        plain = plain.replace(sign, f"\\{sign}")
    return plain


def _code(text: str) -> str:
    """Show a text as it is written; what would end it is left out."""
    return f"`{' '.join(text.split()).replace('`', '').replace('|', ' ')}`"
