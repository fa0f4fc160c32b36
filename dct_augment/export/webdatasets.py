"""The format of WebDataset: tars with image, label and row of each image, and `_info.json` for timm."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dct_augment.export.hub_yaml import class_label, configs, hub_type
from dct_augment.export.rows import COLUMNS, SPLIT, ExportClass, ExportImage, Images

IMAGES_OF_A_TAR = 10_000
BYTES_OF_A_TAR = 400 * 2**20


def write_webdataset(images: Images, folder: Path, classes: Sequence[ExportClass]) -> dict[str, Any]:
    """Write `train-000000.tar` and so on: `<key>.png`, `<key>.cls` with the label, `<key>.json` with the row."""
    names: list[str] = []
    lengths: list[int] = []
    endings: set[str] = set()
    ahead = next(images, None)
    while ahead is not None:
        names.append(f"{SPLIT}-{len(names):06d}.tar")
        lengths.append(0)
        written = 0
        with tarfile.open(folder / names[-1], "w") as tar:
            while ahead is not None and lengths[-1] < IMAGES_OF_A_TAR and written < BYTES_OF_A_TAR:
                for name, data in _members(ahead):
                    _add(tar, name, data)
                    written += len(data)
                endings.add(ahead.ending)
                lengths[-1] += 1
                ahead = next(images, None)
    info = {"name": SPLIT, "num_samples": sum(lengths), "filenames": names, "shard_lengths": lengths}
    (folder / "_info.json").write_text(json.dumps({"splits": {SPLIT: info}}, indent=1) + "\n", encoding="utf-8")
    described = {"features": _features(classes, sorted(endings))}
    return {"dataset_info": described, **configs(f"{SPLIT}-*.tar")}


def _members(image: ExportImage) -> Iterator[tuple[str, bytes]]:
    """Yield the files of one image in a tar."""
    key = image.row["key"]
    yield f"{key}.{image.ending}", image.data
    yield f"{key}.cls", str(image.target.label).encode()
    yield f"{key}.json", json.dumps(image.row, ensure_ascii=False).encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # time 0 and no owner: the same images make the same tar
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
    tar.members = []  # type: ignore[attr-defined]  # it would keep all of them in memory, to list them


def _features(classes: Sequence[ExportClass], endings: Sequence[str]) -> list[dict[str, Any]]:
    """List what the tars hold as the YAML of the Hub's cards does."""
    return [
        *({"name": ending, "dtype": "image"} for ending in endings),
        {"name": "cls", "dtype": class_label([target.name for target in classes])},
        {"name": "json", "struct": [{"name": name, "dtype": hub_type(name)} for name in COLUMNS]},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]
