"""Image shards on disk: WebDataset tars, a parquet row per image, and `_info.json` for timm.

A shard is done when its parquet is there: it is written last and carries what was asked for, the
SHA-256 of the tar, and one of its own content. `plan.json` holds the layout and is written before any shard.
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
import webdataset as wds
from PIL import Image

from dct_augment import files, tars
from dct_augment.config import differences, fingerprint
from dct_augment.errors import ShardError, StaleRunError
from dct_augment.generation.plan import Layout, ShardSpec
from dct_augment.images import UNREADABLE_IMAGE
from dct_augment.records import GeneratedImage

TRAIN, PLAIN = "train", "plain"
"""Splits: images drawn with class tokens, and with plain prompts."""

_MTIME = 0.0
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "jpg": ("JPEG", {"quality": 95}),
}


@dataclass(frozen=True)
class ShardFolder:
    """The shards of one run: `<run>-<split>-000000.tar` and so on in `path`."""

    path: Path
    run: str

    def layout(self, split: str) -> Layout:
        """The recorded layout of a split; empty if there is none.

        Raises:
            ShardError: plan.json is not readable.
        """
        specs = self._plans().get(split, [])
        return tuple(
            ShardSpec(split, number, {slug: (start, stop) for slug, (start, stop) in ranges.items()})
            for number, ranges in enumerate(specs)
        )

    def record(self, split: str, layout: Layout) -> None:
        """Write the layout of a split, before any of its shards."""
        plans = self._plans() | {split: [dict(spec.ranges) for spec in layout]}
        files.write_text(self.path / "plan.json", json.dumps(plans, indent=1) + "\n")

    def tar(self, spec: ShardSpec) -> Path:
        """Path of a shard's tar."""
        return self.path / f"{spec.stem(self.run)}.tar"

    def parquet(self, spec: ShardSpec) -> Path:
        """Path of a shard's rows: the mark that it is done."""
        return self.tar(spec).with_suffix(".parquet")

    def done(self, spec: ShardSpec, identity: Mapping[str, Any]) -> bool:
        """Whether a shard is finished, whole, and made with these settings.

        Raises:
            StaleRunError: it was made with other settings.
        """
        loaded = self._load(spec)
        if loaded is None:
            return False
        meta, _ = loaded
        if meta["identity"] != identity:
            raise StaleRunError(
                f"{self.tar(spec)} was made with other settings: {'; '.join(differences(meta['identity'], identity))}. "
                "Use another --output, or delete the folder's shards to make them again"
            )
        return self.tar(spec).is_file() and files.sha256(self.tar(spec)) == meta["tar_sha256"]

    def write(
        self, spec: ShardSpec, samples: Sequence[GeneratedImage], identity: Mapping[str, Any], image_format: str
    ) -> None:
        """Write a shard: the tar first, then its rows. Failed samples have a row and no image."""
        with files.atomic(self.tar(spec)) as partial:
            with partial.open("wb") as stream, wds.TarWriter(stream, mtime=_MTIME, encoder=False) as tar:
                for sample in samples:
                    if sample.image is not None:
                        tar.write(_members(sample, image_format))
            digest = files.sha256(partial)
        table = pa.Table.from_pandas(pd.DataFrame([_record(s) for s in samples]), preserve_index=False)
        meta = {"identity": identity, "tar_sha256": digest, "shard": spec.stem(self.run)}
        whole = meta | {"sha256": fingerprint(meta, table.to_pylist())}
        table = table.replace_schema_metadata({b"dct_augment": json.dumps(whole, sort_keys=True).encode()})
        with files.atomic(self.parquet(spec)) as partial:
            pq.write_table(table, partial)

    def digest(self, spec: ShardSpec) -> str:
        """SHA-256 of a finished shard's tar as recorded; empty if it is not finished."""
        loaded = self._load(spec)
        return str(loaded[0]["tar_sha256"]) if loaded else ""

    def info(self, splits: Sequence[str] = (TRAIN, PLAIN)) -> dict[str, Any]:
        """What `_info.json` says: shards and counts of each split, from the finished shards."""
        info: dict[str, Any] = {}
        for split in splits:
            finished = self._finished(split)
            lengths = [table["status"].to_pylist().count("ok") for _, table in finished]
            if finished:
                info[split] = {
                    "name": split,
                    "num_samples": sum(lengths),
                    "filenames": [self.tar(spec).name for spec, _ in finished],
                    "shard_lengths": lengths,
                }
        return {"splits": info}

    def publish(self, splits: Sequence[str] = (TRAIN, PLAIN)) -> None:
        """Write `_info.json`, which timm's wds reader and others find."""
        files.write_text(self.path / "_info.json", json.dumps(self.info(splits), indent=1) + "\n")

    def rows(self, split: str) -> pd.DataFrame:
        """All rows of a split's finished shards, with a `shard` column; empty if there are none."""
        frames = [table.to_pandas().assign(shard=self.tar(spec).name) for spec, table in self._finished(split)]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def images(self, split: str) -> Iterator[tuple[str, int, Image.Image]]:
        """Key, label and picture of every image of a split, shard by shard."""
        for spec, _ in self._finished(split):
            yield from read(self.tar(spec))

    def _plans(self) -> dict[str, list[dict[str, list[int]]]]:
        path = self.path / "plan.json"
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ShardError(f"{path} is damaged: {error}. Delete the shards folder to make it again") from error

    def _load(self, spec: ShardSpec) -> tuple[dict[str, Any], pa.Table] | None:
        """What a shard's parquet says of itself, and its rows; None unless all of it is whole."""
        try:
            with pq.ParquetFile(self.parquet(spec)) as stored:
                table = stored.read()
            meta = dict(json.loads((table.schema.metadata or {})[b"dct_augment"]))
            digest = meta.pop("sha256")
            return (meta, table) if digest == fingerprint(meta, table.to_pylist()) else None
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
            return None

    def _finished(self, split: str) -> list[tuple[ShardSpec, pa.Table]]:
        loaded = [(spec, self._load(spec)) for spec in self.layout(split)]
        return [(spec, one[1]) for spec, one in loaded if one is not None]

    def check(self, spec: ShardSpec) -> list[str]:
        """What is wrong with a shard, in words; empty if tar, rows and hashes agree."""
        name = self.tar(spec).name
        loaded = self._load(spec)
        if loaded is None:
            known = self.parquet(spec).is_file()
            return [f"{self.parquet(spec).name}: damaged" if known else f"{name}: not finished (it has no parquet)"]
        meta, table = loaded
        if not self.tar(spec).is_file():
            return [f"{name}: missing"]
        problems = []
        if files.sha256(self.tar(spec)) != meta["tar_sha256"]:
            problems.append(f"{name}: its SHA-256 is not the one in {self.parquet(spec).name}")
        rows = table.to_pandas()
        if len(rows) != len(spec):
            problems.append(f"{name}: {len(rows)} rows, but the plan has {len(spec)}")
        kept = rows[rows["status"] == "ok"]
        try:
            found = {key: label for key, label, _ in read(self.tar(spec))}
        except (ShardError, OSError) as error:
            return [*problems, f"{name}: {error}"]
        wanted = dict(zip(kept["key"], kept["class_index"].astype(int), strict=True))
        if found != wanted:
            wrong = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            problems.append(f"{name}: {len(wrong)} images disagree with their rows, first {wrong[0]!r}")
        return problems


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
        raise ShardError(f"{tar.name} cannot be read: {error}") from error


def _members(sample: GeneratedImage, image_format: str) -> dict[str, Any]:
    assert sample.image is not None
    kind, options = _FORMATS[image_format]
    buffer = io.BytesIO()
    sample.image.save(buffer, format=kind, **options)
    facts = {key: value for key, value in _record(sample).items() if value == value and value is not None}
    return {
        "__key__": sample.row.key,
        image_format: buffer.getvalue(),
        "cls": str(sample.row.class_index).encode(),
        "json": json.dumps(facts, ensure_ascii=False, sort_keys=True).encode(),
    }


def _record(sample: GeneratedImage) -> dict[str, Any]:
    row = sample.row
    return {
        "key": row.key,
        "class_index": row.class_index,
        "class_name": row.class_name,
        "number": row.number,
        "prompt": row.prompt,
        "seed": row.seed,
        "source": "class_token" if row.token_sha256 else "plain_prompt",
        "token_sha256": row.token_sha256,
        "status": sample.status,
        "error": sample.error,
        "guide_label": sample.guide_label,
        "guide_right": sample.guide_right,
        "guide_confidence": round(sample.guide_confidence, 4),
        "judge_label": sample.judge_label,
        "judge_right": sample.judge_right,
        "judge_confidence": round(sample.judge_confidence, 4),
    }
