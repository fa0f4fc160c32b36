"""The data-set card: a README that says what the images are, with the YAML that the Hub and its readers use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from dct_augment.export import grid
from dct_augment.export.licences import licence
from dct_augment.export.rows import ExportClass
from dct_augment.export.runs import SourceRun, public
from dct_augment.export.selection import ClassTally, Selection
from dct_augment.wording import counted

MOST_ROWS = 2000
"""Classes in the table; the Hub shows no card that is much longer."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_READ = {
    "imagefolder": (
        'torchvision.datasets.ImageFolder("DIR/train")',
        'datasets.load_dataset("imagefolder", data_dir="DIR", split="train")',
    ),
    "huggingface": ('datasets.load_dataset("DIR", split="train")',),
    "parquet": (
        'pandas.read_parquet("DIR/train-00000-of-00001.parquet")',
        'datasets.load_dataset("DIR", split="train")',
    ),
    "webdataset": (
        'webdataset.WebDataset("DIR/train-000000.tar", shardshuffle=False).decode("pil").to_tuple("png", "cls")',
        'timm.data.create_dataset("wds/DIR", root="DIR", split="train", batch_size=32)',
        'datasets.load_dataset("DIR", split="train")',
    ),
    "csv": ('pandas.read_csv("DIR/labels.csv")', 'datasets.load_dataset("DIR", split="train")'),
}


@dataclass
class ClassSummary:
    """What the card says of one class of the export, over all its runs."""

    target: ExportClass
    images: int = 0
    prompt: str = ""
    tokens: dict[str, None] = field(default_factory=dict)

    def add(self, tally: ClassTally) -> None:
        """Add what one run has of the class."""
        self.images += tally.images
        self.prompt = self.prompt or tally.prompt
        self.tokens |= tally.tokens


@dataclass(frozen=True)
class Export:
    """All that is said of an export."""

    format: str
    selection: Selection
    confidences: Sequence[float | None]
    classes: tuple[ClassSummary, ...]
    command: str
    version: str


def write_card(export: Export, hub: Mapping[str, Any]) -> str:
    """Write the text of README.md; `hub` is what its YAML says of the files."""
    names = " and ".join(run.name for run in export.selection.runs)
    header = {
        "pretty_name": f"Synthetic images of {names}",
        "tags": ["synthetic", "dct-augment"],
        "task_categories": ["image-classification"],
        "annotations_creators": ["machine-generated"],
        "size_categories": [_size(len(export.selection))],
        **hub,
    }
    sections = (
        [f"# Synthetic images of {names}", ""],
        _introduction(export),
        _how_to_read(export),
        _making(export),
        _choosing(export),
        _class_table(export),
    )
    text = "\n".join(line for section in sections for line in section)
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{front}---\n{text}\n"


def summarize(selection: Selection, targets: Mapping[tuple[int, str], ExportClass]) -> tuple[ClassSummary, ...]:
    """Sum up the classes of an export, in the order of their labels."""
    summaries: dict[int, ClassSummary] = {}
    for member, tally in selection.classes.items():
        target = targets[member]
        summaries.setdefault(target.label, ClassSummary(target)).add(tally)
    return tuple(summaries[label] for label in sorted(summaries))


def _introduction(export: Export) -> list[str]:
    shown = min(len(export.classes), grid.MOST_CLASSES)
    which = "One row a class" if shown == len(export.classes) else f"One row a class, the first {shown} classes"
    how_many = f"{counted(len(export.selection), 'image')} of {counted(len(export.classes), 'class')}"
    return [
        f"{how_many}. **All of them are synthetic**: a text-to-image model generated them, to train classifiers. No "
        "photograph is among them.",
        "",
        f"![{which}]({grid.FILE})",
        "",
        f"*{which}, the first {grid.IMAGES_OF_A_CLASS} images at most.*",
        "",
    ]


def _how_to_read(export: Export) -> list[str]:
    lines = ["## How to read it", "", "With this folder as `DIR`:", "", "```text", *_READ[export.format], "```", ""]
    if export.format in ("imagefolder", "csv"):
        lines += ["Labels follow the names of the folders, as readers of folders count. ", ""]
    else:
        lines += ["Labels follow the order of classes in the data set, without gaps. ", ""]
    lines[-2] += (
        "`classes.txt` names the classes in label order; `class_index` is the label in the data set of the run."
    )
    return lines


def _making(export: Export) -> list[str]:
    lines = ["## How they were made", ""]
    for run in export.selection.runs:
        lines += [f"**Run `{run.name}`**", "", *_facts(run), ""]
    lines += [
        f"Exported by dct-augment {export.version}:",
        "",
        "```text",
        export.command,
        "```",
        "",
        "A *guide* is the classifier whose gradient trained one class token for each class; a *judge* only measures.",
        "The licence of the model may limit what the images may be used for. These images have none of their own yet: "
        "state one here before you publish them.",
        "",
    ]
    return lines


def _facts(run: SourceRun) -> list[str]:
    """List what made the images of a run; what is not recorded is said to be so."""
    identity = run.identity
    model, prompts, sampling = (identity.get(key) or {} for key in ("model", "prompts", "sampling"))
    unknown = "not recorded"
    path = str(model.get("path") or "")
    revision = f", revision `{model['revision']}`" if model.get("revision") else ""
    name = f"`{public(path)}`{revision}" if path else unknown
    rights = licence(path, model.get("revision")) if path else ""
    guidance = (identity.get("generation") or {}).get("guidance_scale")
    if guidance is not None:
        sampling = {**sampling, "guidance_scale": guidance}
    steps = [f"{value} {what}" for what, value in _sampling(sampling)]
    return [
        f"- data set: {run.public_data_set or unknown}",
        f"- text-to-image model: {name}",
        f"- licence of the model: {rights or 'see the page of the model'}",
        f"- guide: {_classifiers(identity.get('guide')) or unknown}",
        f"- judge: {_classifiers(identity.get('judge')) or 'none'}",
        f"- prompts: {', '.join(f'`{text}`' for text in prompts.get('templates') or ()) or unknown}",
        f"- contexts: {', '.join(f'`{text}`' for text in _contexts(prompts.get('contexts'))) or 'none'}",
        f"- sampling: {', '.join(steps) or unknown}",
        *_start(identity.get("generation") or {}),
        *_token_noise(identity.get("generation") or {}),
    ]


def _contexts(contexts: Any) -> list[str]:
    """List the texts of contexts, which are the same for all classes or given class by class; each once."""
    lists = contexts.values() if isinstance(contexts, Mapping) else [contexts or ()]
    return list(dict.fromkeys(text for texts in lists for text in texts if text))


def _sampling(sampling: Mapping[str, Any]) -> list[tuple[str, Any]]:
    words = {"num_inference_steps": "steps", "guidance_scale": "guidance scale", "scheduler": "scheduler"}
    return [(word, sampling[key]) for key, word in words.items() if sampling.get(key) is not None]


def _start(generation: Mapping[str, Any]) -> list[str]:
    """Say that images started from real photos, which decides who may have them."""
    if generation.get("start", "noise") == "noise":
        return []
    whose = {"same_class": "of the same class", "any_class": "of any class"}[generation["start"]]
    strengths = ", ".join(f"{strength:g}" for strength in generation["strengths"])
    return [
        f"- **start images**: each image started from a real training photo {whose}, strength {strengths}; "
        "it may look like this photo, and rights in the photo may hold for it"
    ]


def _token_noise(generation: Mapping[str, Any]) -> list[str]:
    """Say that each image has a class token of its own, so that the token file alone does not make it again."""
    noise = generation.get("token_noise")
    return [f"- noise on class tokens: {noise:g} of their length, another one for each image"] if noise else []


def _classifiers(members: Any) -> str:
    """Name the classifiers of a guide or judge."""
    listed = [members] if isinstance(members, Mapping) else members or ()
    return " + ".join(map(_classifier, listed))


def _classifier(member: Mapping[str, Any]) -> str:
    """Name a classifier; of one that is made here, also the model that it is made on."""
    name, base = public(str(member.get("name"))), member.get("backbone") or member.get("model")
    return f"`{name}` on `{public(str(base))}`" if base else f"`{name}`"


def _choosing(export: Export) -> list[str]:
    selection = export.selection
    tallies = selection.classes.values()
    lines = ["## Which images", ""]
    for run, confidence in zip(selection.runs, export.confidences, strict=True):
        what = f"Of run `{run.name}`: " if len(selection.runs) > 1 else ""
        lines.append(f"- {what}{_filtered(confidence)}")
    for reason, count in selection.left_out.items():
        lines.append(f"- left out: {count:,}, {reason}")
    if selection.without_images:
        lines.append(f"- classes of which no image is left: {', '.join(map(_cell, selection.without_images))}")
    if selection.unfinished:
        lines.append(f"- not there: {counted(selection.unfinished, 'image')}, planned and not generated yet")
    lines.append(f"- the guide recognises {sum(tally.guide_right for tally in tallies) / len(selection):.1%} of them")
    if judged := sum(tally.judged for tally in tallies):
        lines.append(f"- the judge recognises {sum(tally.judge_right for tally in tallies) / judged:.1%}")
    return [*lines, ""]


def _filtered(confidence: float | None) -> str:
    if confidence is None:
        return "not filtered: every finished image of the chosen classes"
    return (
        f"filtered: the guide takes each image for its class and gives the class {confidence:g} or more; of images "
        "with the same pixels only the first is there"
    )


def _class_table(export: Export) -> list[str]:
    lines = [
        "## Classes",
        "",
        "| label | class | folder | images | first prompt | SHA-256 of the class token |",
        "| ---: | --- | --- | ---: | --- | --- |",
    ]
    for summary in export.classes[:MOST_ROWS]:
        target = summary.target
        tokens = ", ".join(f"`{token}`" for token in summary.tokens)
        cells = (target.label, _cell(target.name), target.folder, summary.images, _code(summary.prompt), tokens)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if len(export.classes) > MOST_ROWS:
        lines += ["", f"And {len(export.classes) - MOST_ROWS:,} more; `classes.txt` names all."]
    return lines


def _cell(text: str) -> str:
    """Keep a text within its table cell."""
    return text.replace("|", "\\|").replace("<", "\\<")


def _code(text: str) -> str:
    """Quote a text as code within its table cell."""
    return "`" + text.replace("|", "\\|").replace("`", "'") + "`"


def _size(count: int) -> str:
    return next((name for limit, name in _SIZES if count < limit), "1M<n<10M")
