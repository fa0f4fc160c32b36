"""What tests of the report share: a small run of real shards, its report, and what a page is made of."""

import base64
import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from dct_augment.benchmark.arm_comparisons import summarize_trials
from dct_augment.config import Config, validate
from dct_augment.generation.plan import extend, rows
from dct_augment.generation.shards import ShardFolder, shard_folders
from dct_augment.metrics.accuracy import class_titles
from dct_augment.records import ClassInfo, ClassToken, GeneratedImage, ImageKind, PlanRow, Trial
from dct_augment.report.page import write_report
from dct_augment.tokens.files import TokenFolder

ODD = 'Grün_tern & <b onclick="x">$鳥$'
CLASSES = (ClassInfo(0, "crane", "crane", homonym=True), ClassInfo(1, ODD, "odd"))
COLORS = ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0))
"""The colour of image 0, 1, 2, 3 of every class, to tell their thumbnails apart."""

NO_TRIALS = pd.DataFrame(columns=[field.name for field in dataclasses.fields(Trial)])


Shards = Mapping[ImageKind, ShardFolder]


def answers(accuracy: float, images: int = 1000) -> dict[str, Any]:
    """What a trial says of this accuracy: of two classes in turn, the first images are recognised."""
    truth = [number % 2 for number in range(images)]
    right = round(accuracy * images)
    return {"truth": truth, "predicted": truth[:right] + [1 - label for label in truth[right:]]}


def settings(**changes: Any) -> Config:
    data: dict[str, Any] = {
        "name": "try",
        "dataset": {"name": "pocket"},
        "guide": {"name": "pocket/birds-guide"},
        "judge": {"name": "pocket/birds-judge"},
        "report": {"images_per_class": 4},
    }
    return validate(data | changes)


def fill(
    shards: Shards,
    kind: ImageKind,
    generate: Callable[[PlanRow], GeneratedImage],
    classes: tuple[ClassInfo, ...] = CLASSES,
    per_class: int = 4,
    without: tuple[str, ...] = (),
    shard_size: int = 5,
) -> None:
    """Write the images of a kind as a run does; classes `without` a token use the plain prompt."""
    tokens = {
        info.slug: ClassToken(f"<dct-try-{info.slug}>", info.slug, "0" * 64)
        for info in classes
        if kind is ImageKind.CLASS_TOKEN and info.slug not in without
    }
    layout = extend((), classes, per_class, shard_size)
    shards[kind].record(layout)
    for spec in layout:
        planned = rows(spec, kind, classes, settings().prompts, tokens, 0)
        shards[kind].write(spec, [generate(row) for row in planned], {}, "png")


def recognised_on(judge: Mapping[str, int], guide: Mapping[str, int], failed: tuple[str, int] | None = None) -> Any:
    """A function that generates images on which judge and guide are right: the first so many of each class."""

    def generate(row: PlanRow) -> GeneratedImage:
        if (row.slug, row.number) == failed:
            return GeneratedImage(row, None, "failed", "image is not finite")
        return GeneratedImage(
            row,
            Image.new("RGB", (16, 16), COLORS[row.number]),
            guide_label=row.class_name if row.number < guide[row.slug] else "bat",
            guide_right=row.number < guide[row.slug],
            guide_confidence=0.5,
            # Labels may be spelled as in a label file.
            judge_label=row.class_name.upper().replace("_", " ") if row.number < judge[row.slug] else "bat",
            judge_right=row.number < judge[row.slug],
            judge_confidence=0.5,
        )

    return generate


def make_shards(root: Path) -> Shards:
    """Both kinds of two classes, four images each; one class-token image failed."""
    shards = shard_folders(root, "try")
    fill(shards, ImageKind.PLAIN_PROMPT, recognised_on({"crane": 1, "odd": 2}, {"crane": 0, "odd": 4}))
    fill(
        shards, ImageKind.CLASS_TOKEN, recognised_on({"crane": 4, "odd": 2}, {"crane": 4, "odd": 4}, failed=("odd", 3))
    )
    return shards


def make_tokens(root: Path) -> pd.DataFrame:
    folder = TokenFolder(root / "tokens", "pocket")
    folder.publish(
        [
            {
                "token": folder.word(info),
                "class": info.name,
                "slug": info.slug,
                "class_index": info.index,
                "homonym": info.homonym,
                "usable": True,
                "stop_reason": "target reached",
                "updates": 3,
                "attempts": 1,
                "unet_evaluations": 120,
                "mean_pixel_change": 9.5,
                "plain_guide_accuracy": 0.25,
                "guide_accuracy": 0.9,
                "guide_probability": 0.8,
                "plain_judge_accuracy": None,
                "judge_accuracy": None,
                "verdict": None,
                "diversity": None,
                "plain_diversity": None,
                **dict.fromkeys(f"{role}gain{end}" for role in ("", "judge_") for end in ("", "_low", "_high")),
                "norm": float("nan"),
                "losses": [2.0, 1.0, 0.5],
                "validations": json.dumps([{"update": 3, "accuracy": 0.9, "probability": 0.8}]),
            }
            for info in CLASSES
        ]
    )
    return folder.index()


def trial_table(path: Path) -> pd.DataFrame:
    accuracies = {
        "real+strong_aug": (0.5, 0.6, 0.7),
        "class_token": (0.6, 0.7, 0.9),
        "plain_prompt": (0.5, 0.5),
    }
    table = pd.DataFrame(
        [
            {
                "arm": arm,
                "shots": 5,
                "seed": seed,
                "per_class": 0 if arm.startswith("real") else 50,
                "steps": 200,
                "accuracy": accuracy,
                "other_model": "",
                **answers(accuracy),
            }
            for arm, values in accuracies.items()
            for seed, accuracy in enumerate(values)
        ]
    )
    table.to_parquet(path, index=False)
    return pd.read_parquet(path)


def make(root: Path, shards: Shards, tokens: pd.DataFrame, trials: pd.DataFrame, **changes: Any) -> Any:
    """Build a report; return (summary, page)."""
    arguments: dict[str, Any] = {"config": settings(), "classes": CLASSES, "environment": {"torch": "1.2 <3>"}}
    arguments |= changes
    settings_, titles_ = arguments["config"].benchmark, class_titles(arguments["classes"])
    folds = arguments.pop("folds", None)
    benchmark = summarize_trials(trials, titles_, settings_.shots, settings_.per_class, folds)
    benchmark["guide_saw"] = arguments.pop("guide_saw", "this_training_set")
    path = write_report(root, **arguments, tokens=tokens, shards=shards, benchmark=benchmark)
    assert path == root / "report" / "index.html"
    text = (root / "report" / "summary.json").read_text(encoding="utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse), path.read_text(encoding="utf-8")


def class_table(root: Path) -> pd.DataFrame:
    """What a report says of each class, as a program reads it."""
    return pd.read_csv(root / "report" / "classes.csv", index_col="class")


def confusion_counts(root: Path, images: str, arm: str) -> dict[str, dict[str, int]]:
    """How often which class got which answer, as a program reads it; "" is an answer outside the classes."""
    table = pd.read_csv(root / "report" / "confusions.csv", keep_default_na=False)
    counts: dict[str, dict[str, int]] = {}
    for row in table[(table["images"] == images) & (table["arm"] == arm)].to_dict("records"):
        counts.setdefault(row["class"], {})[row["answer"]] = row["count"]
    return counts


def empty(tmp_path: Path, **changes: Any) -> Any:
    return make(tmp_path, shard_folders(tmp_path / "none", "try"), pd.DataFrame(), NO_TRIALS, **changes)


class Page(HTMLParser):
    """What a page is made of; fails on tags that do not nest."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        self._join(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._join(tag)

    def _join(self, tag: str) -> None:
        if tag == "bdi":  # it keeps the direction of a name to itself, and is no gap between words
            self.words.append("\0")

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace(" \0 ", "").split())


def thumbnail_images(page: Page) -> list[Image.Image]:
    uris = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    return [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]
