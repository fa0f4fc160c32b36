"""Image shards on disk: WebDataset tars, a parquet row per image, and `_info.json` for timm.

A shard is done when its parquet is there: it is written last and carries what was asked for, the
SHA-256 of the tar, and one of its own content. `plan.json` holds the layout and is written before any shard.
Each kind of images has a folder of its own: class-token images `shards/`, plain-prompt images `comparison/`.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dct_augment import files, tars
from dct_augment.config import comparable, differences, fingerprint
from dct_augment.errors import ShardError, StaleRunError
from dct_augment.generation.plan import Layout, ShardSpec
from dct_augment.images import UNREADABLE_IMAGE
from dct_augment.records import GeneratedImage, ImageKind
from dct_augment.wording import counted, in_one_line, reason_of

FOLDERS = {ImageKind.CLASS_TOKEN: "shards", ImageKind.PLAIN_PROMPT: "comparison"}
"""The folder of each kind in a run folder. The one that training code reads holds training images only."""

SPLITS = {ImageKind.CLASS_TOKEN: "train", ImageKind.PLAIN_PROMPT: "plain_prompt"}
"""The name of each kind in file names, plan.json and _info.json."""

_OLD_PLAIN_SPLIT = "plain"  # version 0.1.0 kept plain-prompt images in `shards/` too, under this name

_FROM_NOISE: dict[str, Any] = {"start_key": "", "strength": 1.0}
"""What the row of an image says that starts from noise. Its tar says nothing: it stays what it was, byte for byte."""

_TOKEN_AS_IT_IS: dict[str, Any] = {"token_noise": 0.0}
"""The same for an image without noise on its class token."""

_MTIME = 0.0
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "jpg": ("JPEG", {"quality": 95}),
}


@dataclass(frozen=True)
class ShardFolder:
    """The shards of one kind of images of a run: `<run>-<split>-000000.tar` and so on in `path`."""

    path: Path
    run: str
    split: str

    def layout(self) -> Layout:
        """Read the recorded layout; empty if there is none.

        Raises:
            ShardError: plan.json is not readable.
        """
        layout: list[ShardSpec] = []
        for number, ranges in enumerate(_read_plans(self.path).get(self.split, [])):
            layout.append(ShardSpec(number, {slug: (start, stop) for slug, (start, stop) in ranges.items()}))
        return tuple(layout)

    def record(self, layout: Layout) -> None:
        """Write the layout, before any of its shards."""
        plans = {self.split: [dict(spec.ranges) for spec in layout]}
        files.write_text(self.path / "plan.json", json.dumps(plans, indent=1) + "\n")

    @property
    def is_old(self) -> bool:
        """Whether version 0.1.0 made the folder, with two kinds of images in it: it is read, and nothing is added."""
        return _OLD_PLAIN_SPLIT in _read_plans(self.path)

    def refuse_old_layout(self) -> None:
        """Check that nothing but the images of this kind is planned in this folder.

        Raises:
            StaleRunError: version 0.1.0 made the folder, with two kinds of images in it.
        """
        if self.is_old:
            raise StaleRunError(
                f"{self.path} was made by dct-augment 0.1.0, which kept training images and plain-prompt images in one "
                f"folder. This version can read it, but adds nothing to it. Use another --output, or delete "
                f"{self.path} to generate its images again"
            )

    def stem(self, spec: ShardSpec) -> str:
        """Name a shard's files, without ending: `<run>-<split>-000000`."""
        return f"{self.run}-{self.split}-{spec.number:06d}"

    def tar(self, spec: ShardSpec) -> Path:
        """Give the path of a shard's tar."""
        return self.path / f"{self.stem(spec)}.tar"

    def parquet(self, spec: ShardSpec) -> Path:
        """Give the path of a shard's rows: the mark that it is done."""
        return self.tar(spec).with_suffix(".parquet")

    def done(self, spec: ShardSpec, identity: Mapping[str, Any], labels: Mapping[str, int] | None = None) -> bool:
        """Tell whether a shard is finished, complete, and made with these settings.

        `labels` are those of the classes today, by slug; they are not compared if not given.

        Raises:
            StaleRunError: it was made with other settings, or a class had another label.
        """
        stored = self.load(spec)
        if stored is None:
            return False
        recorded = stored.metadata["identity"]
        if recorded != comparable(identity, recorded):
            changes = "; ".join(differences(recorded, comparable(identity, recorded)))
            raise StaleRunError(
                f"{self.tar(spec)} was made with other settings: {changes}. "
                "Use another --output, or delete the folder's shards to make them again"
            )
        self._refuse_other_labels(spec, stored.table, labels or {})
        return self.tar(spec).is_file() and files.sha256(self.tar(spec)) == stored.metadata["tar_sha256"]

    def _refuse_other_labels(self, spec: ShardSpec, table: pa.Table, labels: Mapping[str, int]) -> None:
        """Check that classes still have the labels that a finished shard gave to its images."""
        keys = dict(zip(table["class_index"].to_pylist(), table["key"].to_pylist(), strict=True))
        for label, key in keys.items():
            slug = str(key).rpartition("-")[0].removeprefix("plain_")
            if labels.get(slug, label) != label:
                raise StaleRunError(
                    f"{self.tar(spec)} was made when class {slug!r} had label {label}; it has {labels[slug]} now, "
                    "because the order of classes changed. Use another --output; or, if the classes are folders, "
                    "dataset.class_order: alphabetical, the order of earlier versions"
                )

    def write(
        self, spec: ShardSpec, images: Sequence[GeneratedImage], identity: Mapping[str, Any], image_format: str
    ) -> None:
        """Write a shard: the tar first, then its rows. A failed image has a row and no picture."""
        import webdataset as wds  # it imports torch; who only reads does not wait for that

        with files.atomic(self.tar(spec)) as partial:
            with partial.open("wb") as stream, wds.TarWriter(stream, mtime=_MTIME, encoder=False) as tar:
                for image in images:
                    if image.image is not None:
                        tar.write(_members(image, image_format))
            digest = files.sha256(partial)
        table = pa.Table.from_pandas(pd.DataFrame([_record(image) for image in images]), preserve_index=False)
        metadata = {"identity": identity, "tar_sha256": digest, "shard": self.stem(spec)}
        signed = metadata | {"sha256": fingerprint(metadata, table.to_pylist())}
        table = table.replace_schema_metadata({b"dct_augment": json.dumps(signed, sort_keys=True).encode()})
        with files.atomic(self.parquet(spec)) as partial:
            pq.write_table(table, partial)

    def digest(self, spec: ShardSpec) -> str:
        """Give the recorded SHA-256 of a finished shard's tar; empty if it is not finished."""
        stored = self.load(spec)
        return str(stored.metadata["tar_sha256"]) if stored else ""

    def info(self) -> dict[str, Any]:
        """Describe the finished shards as `_info.json` does: file names and counts, by split."""
        finished = self._finished()
        if not finished:
            return {}
        lengths = [stored.table["status"].to_pylist().count("ok") for _, stored in finished]
        return {
            self.split: {
                "name": self.split,
                "num_samples": sum(lengths),
                "filenames": [self.tar(spec).name for spec, _ in finished],
                "shard_lengths": lengths,
            }
        }

    def publish(self) -> None:
        """Write `_info.json`, which timm's wds reader and others find."""
        files.write_text(self.path / "_info.json", json.dumps({"splits": self.info()}, indent=1) + "\n")

    def rows(self) -> pd.DataFrame:
        """Read all rows of the finished shards, with a `shard` column; empty if there are none."""
        frames = []
        for spec, stored in self._finished():
            frame = stored.table.to_pandas().rename(columns={"source": "kind"})  # its name in version 0.1.0
            for name, value in (_FROM_NOISE | _TOKEN_AS_IT_IS).items():  # what earlier versions did not have
                if name not in frame:
                    frame[name] = value
            frames.append(frame.assign(shard=self.tar(spec).name))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def images(self) -> Iterator[tuple[str, int, Image.Image]]:
        """Yield key, label and picture of every image, shard by shard."""
        for spec, _ in self._finished():
            yield from read(self.tar(spec))

    def check(self, spec: ShardSpec) -> list[str]:
        """Say in words what is wrong with a shard; empty if tar, rows and hashes agree."""
        tar, parquet = self.tar(spec), self.parquet(spec)
        stored = self.load(spec)
        if stored is None:
            if parquet.is_file():
                return [f"{parquet.name}: damaged"]
            return [f"{tar.name}: not finished (it has no parquet)"]
        if not tar.is_file():
            return [f"{tar.name}: missing"]
        problems = []
        if files.sha256(tar) != stored.metadata["tar_sha256"]:
            problems.append(f"{tar.name}: its SHA-256 is not the one in {parquet.name}")
        rows = stored.table.to_pandas()
        if len(rows) != len(spec):
            problems.append(f"{tar.name}: {len(rows)} rows, but the plan has {len(spec)}")
        return problems + _tar_problems(tar, rows)

    def load(self, spec: ShardSpec) -> "StoredRows | None":
        """Read a shard's parquet; None unless all of it is intact."""
        try:
            with pq.ParquetFile(self.parquet(spec)) as parquet:
                table = parquet.read()
            metadata = dict(json.loads((table.schema.metadata or {})[b"dct_augment"]))
            digest = metadata.pop("sha256")
            return StoredRows(metadata, table) if digest == fingerprint(metadata, table.to_pylist()) else None
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
            return None

    def _finished(self) -> "list[tuple[ShardSpec, StoredRows]]":
        finished = []
        for spec in self.layout():
            if (stored := self.load(spec)) is not None:
                finished.append((spec, stored))
        return finished


@dataclass(frozen=True)
class StoredRows:
    """The rows of a shard, and what its parquet says of itself."""

    metadata: Mapping[str, Any]
    table: pa.Table


def shard_folder(root: Path, run: str, kind: ImageKind) -> ShardFolder:
    """Give the shard folder of one kind of images in the run folder `root`.

    In a run folder of version 0.1.0, both kinds are in `shards/`.
    """
    old = root / FOLDERS[ImageKind.CLASS_TOKEN]
    if kind is ImageKind.PLAIN_PROMPT and any(old.glob(f"{run}-{_OLD_PLAIN_SPLIT}-*")):
        return ShardFolder(old, run, _OLD_PLAIN_SPLIT)
    return ShardFolder(root / FOLDERS[kind], run, SPLITS[kind])


def shard_folders(root: Path, run: str) -> dict[ImageKind, ShardFolder]:
    """Give the shard folder of each kind of images in the run folder `root`."""
    return {kind: shard_folder(root, run, kind) for kind in ImageKind}


def _read_plans(folder: Path) -> dict[str, list[dict[str, list[int]]]]:
    """Read `plan.json`: the ranges of every shard, by split."""
    path = folder / "plan.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ShardError(f"{path} is damaged: {in_one_line(error)}. Delete {folder} to make it again") from error


def _tar_problems(tar: Path, rows: pd.DataFrame) -> list[str]:
    """Compare the images of a tar with their rows."""
    finished = rows[rows["status"] == "ok"]
    expected = dict(zip(finished["key"], finished["class_index"].astype(int), strict=True))
    try:
        labels = {key: label for key, label, _ in read(tar)}
    except (ShardError, OSError) as error:
        return [f"{tar.name}: {reason_of(error)}"]
    wrong = sorted(key for key in {*labels, *expected} if labels.get(key) != expected.get(key))
    return (
        [f"{tar.name}: {counted(len(wrong), 'image', 'disagrees')} with the rows, first {wrong[0]!r}"] if wrong else []
    )


def read(tar: Path) -> Iterator[tuple[str, int, Image.Image]]:
    """Key, label and RGB picture of every image of one tar.

    Raises:
        ShardError: the tar is truncated, or a sample lacks its image or label.
    """
    try:
        if not tars.is_complete(tar):
            raise ShardError(f"{tar.name} is truncated")
        with tar.open("rb") as stream:
            for sample in tars.index(tar):
                image_span, label_span = sample.image(_FORMATS), sample.members.get("cls")
                if image_span is None or label_span is None:
                    raise ShardError(f"{tar.name}: sample {sample.key!r} lacks its image or label")
                image = Image.open(io.BytesIO(image_span.read(stream))).convert("RGB")
                yield sample.key, int(label_span.read(stream)), image
    except (*UNREADABLE_IMAGE, tarfile.TarError) as error:
        raise ShardError(f"{tar.name} cannot be read: {reason_of(error)}") from error


def _members(image: GeneratedImage, image_format: str) -> dict[str, Any]:
    """The files of one image in a tar."""
    assert image.image is not None
    pillow_format, options = _FORMATS[image_format]
    buffer = io.BytesIO()
    image.image.save(buffer, format=pillow_format, **options)
    record = _record(image)
    if not image.row.start_key:
        record = {key: value for key, value in record.items() if key not in _FROM_NOISE}
    if not image.row.token_noise:
        record = {key: value for key, value in record.items() if key not in _TOKEN_AS_IT_IS}
    metadata = {key: value for key, value in record.items() if value == value and value is not None}
    return {
        "__key__": image.row.key,
        image_format: buffer.getvalue(),
        "cls": str(image.row.class_index).encode(),
        "json": json.dumps(metadata, ensure_ascii=False, sort_keys=True).encode(),
    }


def _record(image: GeneratedImage) -> dict[str, Any]:
    """The row of one image in a parquet."""
    row = image.row
    return {
        "key": row.key,
        "class_index": row.class_index,
        "class_name": row.class_name,
        "number": row.number,
        "prompt": row.prompt,
        "seed": row.seed,
        "kind": str(row.kind),
        "token_sha256": row.token_sha256,
        "start_key": row.start_key,
        "strength": row.strength,
        "token_noise": row.token_noise,
        "status": image.status,
        "error": image.error,
        "guide_label": image.guide_label,
        "guide_right": image.guide_right,
        "guide_confidence": round(image.guide_confidence, 4),
        "judge_label": image.judge_label,
        "judge_right": image.judge_right,
        "judge_confidence": round(image.judge_confidence, 4),
    }
