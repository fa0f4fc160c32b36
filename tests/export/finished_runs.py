"""Finished runs of made-up images, with what guide and judge say of them."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dct_augment.config import PromptsConfig
from dct_augment.generation import plan
from dct_augment.generation.shards import read, shard_folder
from dct_augment.records import ClassInfo, ClassToken, GeneratedImage, ImageKind
from tests.conftest import drawn

BIRDS = (ClassInfo(0, "song sparrow", "song-sparrow"), ClassInfo(1, "Çà bird", "ca-bird"), ClassInfo(2, "gull", "gull"))
IDENTITY: Mapping[str, Any] = {
    "dataset": {"name": "folder"},
    "model": {"path": "pocket", "revision": None},
    "guide": [{"name": "pocket/birds-guide"}],
    "judge": [{"name": "pocket/birds-judge"}],
    "prompts": {"templates": ["a photo of a {token} {class}{context}"], "contexts": ["", "on a | table"]},
    "sampling": {"num_inference_steps": 5, "guidance_scale": 3.0},
}


def finish(
    root: Path,
    *,
    name: str = "birds",
    classes: Sequence[ClassInfo] = BIRDS,
    per_class: int = 3,
    shard_size: int = 4,
    seed: int = 0,
    dataset: str = "data/birds",
    image_format: str = "png",
    wrong: Collection[str] = (),
    unsure: Collection[str] = (),
    failed: Collection[str] = (),
    without_token: Collection[str] = (),
    filtered: bool = False,
    guide: str = "pocket/birds-guide",
) -> Path:
    """Write a run of class-token images, and of plain-prompt images to compare with, as the pipeline does.

    The guide takes the images with the keys `wrong` for another class and gives those of `unsure` a confidence of 0.3;
    the classes with the slugs `without_token` are generated with plain prompts.
    """
    tokens = {
        info.slug: ClassToken(f"<dct-birds-{info.slug}>", info.slug, f"{info.index + 1:064x}")
        for info in classes
        if info.slug not in without_token
    }
    for kind in ImageKind:
        folder = shard_folder(root, name, kind)
        layout = plan.extend((), classes, per_class, shard_size)
        folder.record(layout)
        for spec in layout:
            used = tokens if kind is ImageKind.CLASS_TOKEN else {}
            images = []
            for row in plan.rows(spec, kind, classes, PromptsConfig(), used, seed):
                if row.key in failed:
                    images.append(GeneratedImage(row, None, "failed", "image is not finite"))
                    continue
                right = row.key not in wrong
                sure = 0.3 if row.key in unsure else 0.9
                images.append(GeneratedImage(row, drawn(row), "ok", "", row.class_name, right, sure, "x", right, 0.8))
            folder.write(spec, images, {**IDENTITY, "guide": [{"name": guide}]}, image_format)
        folder.publish()
    settings = {"name": name, "dataset": {"name": "folder", "path": dataset}, "benchmark": {"filter_confidence": 0.5}}
    (root / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    if filtered:
        (root / "benchmark").mkdir()
        (root / "benchmark" / "filter.parquet").touch()
    return root


def stored_files(root: Path, name: str = "birds") -> dict[str, bytes]:
    """The bytes of every class-token image of a run, by key."""
    import tarfile

    stored = {}
    for tar in sorted((root / "shards").glob("*.tar")):
        keys = {key for key, _, _ in read(tar)}
        with tarfile.open(tar) as archive:
            for member in archive:
                key, _, ending = member.name.partition(".")
                if key in keys and ending not in ("cls", "json"):
                    stored[key] = archive.extractfile(member).read()
    return stored
