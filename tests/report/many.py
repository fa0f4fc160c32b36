"""A run of many classes: records and small pictures made up, and its report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dct_augment.generation.shards import shard_folders
from dct_augment.prompts import slugs
from dct_augment.records import ClassInfo, GeneratedImage, ImageKind, PlanRow
from tests.report.pages import fill, make, settings

HOSTILE = (
    "</script><script>document.title='gone'</script>",
    '"><img src=x onerror="document.title=1">',
    "\u202eyad doog\u2066 \u200f",
    "../../etc/passwd",
    "=1+1",
    "{{ 7 * 7 }} <!-- ]]>",
)
"""Names that mean something to HTML, a script, a file system, a spreadsheet or a template."""

ARMS = ("real", "real+strong_aug", "plain_prompt", "class_token")


def many_classes(count: int) -> tuple[ClassInfo, ...]:
    """Classes of which the first have hostile names, and one has accents."""
    names = [*HOSTILE, "Grüne_Möwe", *(f"a bird called {index}" for index in range(count))][:count]
    pairs = zip(names, slugs(names), strict=True)
    return tuple(ClassInfo(index, name, slug) for index, (name, slug) in enumerate(pairs))


def report(root: Path, count: int, *, side: int = 32, images: int = 2) -> tuple[dict[str, Any], str]:
    """Make the report of so many classes, with so many images of each kind; return its summary and its page."""
    classes = many_classes(count)
    generator = np.random.default_rng(0)
    noise = [Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(images)]

    def generate(row: PlanRow) -> GeneratedImage:
        label = classes[int(generator.integers(count))].name
        return GeneratedImage(
            row,
            noise[row.number],
            guide_label=row.class_name,
            guide_right=True,
            guide_confidence=0.5,
            judge_label=label,
            judge_right=label == row.class_name,
            judge_confidence=0.5,
        )

    shards = shard_folders(root, "try")
    half = tuple(info.slug for info in classes[: count // 2])
    for kind in ImageKind:
        fill(shards, kind, generate, classes, per_class=images, shard_size=1000, without=half)
    rows = shards[ImageKind.CLASS_TOKEN].rows()
    filtered = rows[["key", "class_name"]].assign(accepted=rows["number"] > 0, reason="guide unsure")
    return make(
        root,
        shards,
        _tokens(classes, generator),
        _trials(count, generator),
        classes=classes,
        filtered=filtered,
        config=settings(report={"images_per_class": images}),
    )


def _trials(count: int, generator: np.random.Generator) -> pd.DataFrame:
    """Two seeds of each arm, five test images of each class; the later the arm, the more are right."""
    truth = np.arange(count).repeat(5)
    rows = []
    for place, arm in enumerate(ARMS):
        for seed in range(2):
            guessed = generator.integers(0, count, len(truth))
            predicted = np.where(generator.random(len(truth)) < 0.3 + 0.1 * place, truth, guessed)
            rows.append(
                {
                    "arm": arm,
                    "shots": 5,
                    "seed": seed,
                    "per_class": 0 if arm.startswith("real") else 50,
                    "steps": 9,
                    "accuracy": float((truth == predicted).mean()),
                    "truth": truth,
                    "predicted": predicted,
                    "other_model": "",
                }
            )
    return pd.DataFrame(rows)


def _tokens(classes: tuple[ClassInfo, ...], generator: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "token": f"<dct-try-{info.slug}>",
                "class": info.name,
                "slug": info.slug,
                "class_index": info.index,
                "usable": True,
                "stop_reason": "no more progress",
                "updates": 400,
                "attempts": 1,
                "unet_evaluations": 90,
                "mean_pixel_change": 9.5,
                "plain_guide_accuracy": 0.25,
                "guide_accuracy": 0.9,
                "losses": generator.random(400) * 3 if info.index % 50 == 0 else (),  # a chart takes its time
                "validations": json.dumps([{"update": k, "accuracy": k / 400} for k in range(10, 401, 10)]),
                "verdict": "certified",
                "gain": 0.5,
                "gain_low": 0.25,
                "gain_high": 0.75,
                "judge_gain": 0.5,
                "judge_gain_low": 0.25,
                "judge_gain_high": 0.75,
                "diversity": 30.0,
                "plain_diversity": 40.0,
                "norm": 0.4,
                "guide_probability": 0.8,
                "plain_judge_accuracy": 0.25,
                "judge_accuracy": 0.75,
            }
            for info in classes
        ]
    )
