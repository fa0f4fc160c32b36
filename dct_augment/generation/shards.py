"""Image shards on disk: WebDataset tars, a parquet row per image, and `_info.json` for timm.

A shard is done when its parquet is there: it is written last and carries what was asked for, the
SHA-256 of the tar, and one of its own content. `plan.json` holds the layout and is written before any shard.
Each kind of images has a folder of its own: class-token images `shards/`, plain-prompt images `comparison/`.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from PIL import Image

from dct_augment import files, tars
from dct_augment.config import comparable, differences
from dct_augment.errors import ShardError, StaleRunError
from dct_augment.generation import image_files, shard_rows
from dct_augment.generation.checked import CheckedFiles, checked_file
from dct_augment.generation.plan import Layout, ShardSpec
from dct_augment.generation.plan_file import PlanFile
from dct_augment.generation.shard_rows import StoredRows
from dct_augment.images import UNREADABLE_IMAGE
from dct_augment.records import GeneratedImage, ImageKind
from dct_augment.remote.store import is_on_store
from dct_augment.wording import counted, reason_of

FOLDERS = {ImageKind.CLASS_TOKEN: "shards", ImageKind.PLAIN_PROMPT: "comparison"}
"""The folder of each kind in a run folder. The one that training code reads holds training images only."""

SPLITS = {ImageKind.CLASS_TOKEN: "train", ImageKind.PLAIN_PROMPT: "plain_prompt"}
"""The name of each kind in file names, plan.json and _info.json."""

_OLD_PLAIN_SPLIT = "plain"  # version 0.1.0 kept plain-prompt images in `shards/` too, under this name

_UNTOLD = ("start_key", "strength")
"""What the tar does not say of an image that starts from noise: it stays what it was, byte for byte."""

_UNTOLD_WITHOUT_NOISE = ("token_noise",)
"""The same for an image without noise on its class token."""

_MTIME = 0
"""No fraction: each member of a tar would have two blocks more, to say it."""


@dataclass(frozen=True)
class ShardFolder:
    """The shards of one kind of images of a run: `<run>-<split>-000000.tar` and so on in `path`."""

    path: Path
    run: str
    split: str

    @cached_property
    def _plan(self) -> PlanFile:
        return PlanFile(self.path / "plan.json", self.split)

    def layout(self) -> Layout:
        """Read the recorded layout; empty if there is none. A file that has not changed is read once.

        Raises:
            ShardError: plan.json is not readable.
        """
        return self._plan.read().layout if self._plan.is_there else self._layout_of_rows(self._known_shards())

    def _known_shards(self) -> dict[int, ShardSpec]:
        """Read from the rows of intact shards what each holds, by number: all that is known without plan.json."""
        known = {}
        for path in sorted(self.path.glob(f"{self.run}-{self.split}-??????.parquet")):
            number = path.stem[-6:]
            if number.isdecimal() and shard_rows.check(path, path.stem) is not None:
                ranges = _ranges(shard_rows.read_columns(path, ["key", "number"]))
                known[int(number)] = ShardSpec(int(number), ranges)
        return known

    def _layout_of_rows(self, known: Mapping[int, ShardSpec]) -> Layout:
        """Return the layout of a folder whose plan.json is lost: all of its shards are known.

        Raises:
            ShardError: a shard between others is not finished, so that its images are not known.
        """
        if lost := [number for number in range(max(known, default=-1) + 1) if number not in known]:
            state = "damaged" if self.is_recorded else "missing"
            raise ShardError(
                f"{self._plan.path} is {state}, and of shard {lost[0]}, whose images only it names, there are "
                f"no intact rows, either. Delete {self.path} to make all of its images again"
            )
        return tuple(known[number] for number in sorted(known))

    def layout_of_files(self) -> Layout:
        """Return a layout of what lies in the folder, whatever plan.json says; what is not known of a shard is empty.

        For looking alone: nothing can be made by it.
        """
        known = self._known_shards()
        ends = [path.stem[-6:] for path in self.path.glob(f"{self.run}-{self.split}-??????.*")]
        last = max([*known, *(int(end) for end in ends if end.isdecimal())], default=-1)
        return tuple(known.get(number, ShardSpec(number, {})) for number in range(last + 1))

    def record(self, layout: Layout) -> None:
        """Write the layout, before any of its shards."""
        self._plan.write(layout)

    @cached_property
    def _checked(self) -> CheckedFiles:
        return CheckedFiles(checked_file(self.path, self.split))

    def restore_plan(self, by_settings: Iterable[Layout]) -> str:
        """Write plan.json again if it is damaged, or lost beside shards; say so, or nothing.

        Args:
            by_settings: layouts that the settings of today give. One that agrees with all intact shards tells what
                those held that are not intact; else all have to be.

        Raises:
            ShardError: the images of a shard are known from nowhere. Nothing is changed then.
        """
        damage = self._plan.damage
        known = self._known_shards() if damage else {}
        if not known and damage in ("", "lost"):
            return ""
        agreeing: Iterator[Layout] = (
            layout
            for layout in by_settings
            if max(known, default=-1) < len(layout) and all(layout[number] == spec for number, spec in known.items())
        )
        self.record(next(agreeing, ()) or self._layout_of_rows(known))
        return f"{self._plan.path} is {damage}; it is made again of the rows of shards"

    @property
    def is_recorded(self) -> bool:
        """Whether there is a plan.json."""
        return self._plan.path.is_file()

    @property
    def is_old(self) -> bool:
        """Whether version 0.1.0 made the folder, with two kinds of images in it: it is read, and nothing is added."""
        return self._plan.is_there and _OLD_PLAIN_SPLIT in self._plan.read().splits

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
        found = self._found(spec)
        if found is None:
            return False
        recorded = shard_rows.read_metadata(self.parquet(spec))["identity"]
        if recorded != comparable(identity, recorded):
            changes = "; ".join(differences(recorded, comparable(identity, recorded)))
            raise StaleRunError(
                f"{self.tar(spec)} was made with other settings: {changes}. "
                "Use another --output, or delete the folder's shards to make them again"
            )
        if labels:
            self._refuse_other_labels(spec, labels)
        tar = self.tar(spec)
        if is_on_store(tar, found["tar_bytes"]):  # what it holds is compared when it is pulled
            return True
        return bool(self._checked.find(tar, lambda: files.sha256(tar)) == found["tar_sha256"])

    def _refuse_other_labels(self, spec: ShardSpec, labels: Mapping[str, int]) -> None:
        """Check that classes still have the labels that a finished shard gave to its images."""
        table = shard_rows.read_columns(self.parquet(spec), ["class_index", "key"])
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
        """Write a shard: the tar first, then its rows. A failed image has a row and no picture.

        Files that images have already are of `image_format`; the others are encoded here.
        """
        import webdataset as wds  # it imports torch; who only reads does not wait for that

        contents: dict[str, str] = {}
        with files.atomic(self.tar(spec)) as partial:
            with partial.open("wb") as stream, wds.TarWriter(stream, mtime=_MTIME, encoder=False) as tar:
                for image in images:
                    if image.image is not None:
                        file = image.file or image_files.encode(image.image, image_format)
                        contents[image.row.key] = file.content
                        tar.write(_members(image, file.data, image_format))
            digest, size = files.sha256(partial), partial.stat().st_size
            spans = {sample.key: sample.members[image_format] for sample in tars.index(partial)} if contents else {}
        records = []
        for image in images:
            span = spans.get(image.row.key, shard_rows.NOT_STORED)
            place = {"content": contents.get(image.row.key, ""), "offset": span.offset, "bytes": span.size}
            records.append(shard_rows.record(image) | place)
        metadata = {"identity": identity, "tar_sha256": digest, "tar_bytes": size, "shard": self.stem(spec)}
        shard_rows.write(self.parquet(spec), records, metadata)

    def digest(self, spec: ShardSpec) -> str:
        """Give the recorded SHA-256 of a finished shard's tar; empty if it is not finished."""
        found = self._found(spec)
        return str(found["tar_sha256"]) if found else ""

    def info(self) -> dict[str, Any]:
        """Describe the finished shards as `_info.json` does: file names and counts, by split."""
        finished = list(self._finished())
        if not finished:
            return {}
        lengths = [found["images"] for _, found in finished]
        return {
            self.split: {
                "name": self.split,
                "num_samples": sum(lengths),
                "filenames": [self.tar(spec).name for spec, _ in finished],
                "shard_lengths": lengths,
            }
        }

    def info_problem(self) -> str:
        """Say what is wrong with `_info.json`; empty if it agrees with the finished shards, or there are none."""
        expected = self.info()
        path = self.path / "_info.json"
        if not expected or not path.parent.is_dir():
            return ""
        if not path.is_file():
            return "missing"
        try:
            stated = files.load_json(path).get("splits")
        except ValueError as error:
            return f"cannot be read: {error}"
        if not isinstance(stated, dict):
            return "it has no splits"
        if stated.get(self.split) != expected[self.split]:
            return f"what it says of split {self.split} is not what the shards hold"
        return ""

    def publish(self) -> None:
        """Write `_info.json`, which timm's wds reader and others find; remember which shards are intact."""
        files.write_text(self.path / "_info.json", json.dumps({"splits": self.info()}, indent=1) + "\n")
        self._checked.save()

    def rows(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read rows of the finished shards, with a `shard` column; empty if there are none.

        Args:
            columns: only these and `shard`; all if None.
        """
        frames = []
        for spec, _ in self._finished():
            table = shard_rows.read_columns(self.parquet(spec), columns)
            frames.append(table.to_pandas().assign(shard=self.tar(spec).name))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def images(self) -> Iterator[tuple[str, int, Image.Image]]:
        """Yield key, label and picture of every image, shard by shard."""
        for spec, _ in self._finished():
            yield from read(self.tar(spec))

    def check(self, spec: ShardSpec) -> list[tuple[Path, str]]:
        """Say of which file of a shard what is wrong; empty if tar, rows and hashes agree."""
        tar, parquet = self.tar(spec), self.parquet(spec)
        stored = shard_rows.read(parquet)
        if stored is None:
            if parquet.is_file():
                return [(parquet, "damaged")]
            return [(tar, "not finished (it has no parquet)" if tar.is_file() else "missing, or not made yet")]
        if not tar.is_file():
            return [(tar, "missing")]
        problems, is_other = [], files.sha256(tar) != stored.metadata["tar_sha256"]
        if is_other:
            problems.append((tar, f"its SHA-256 is not the one in {parquet.name}"))
        if stored.metadata.get("shard", self.stem(spec)) != self.stem(spec):
            problems.append((parquet, f"it is of shard {stored.metadata['shard']}"))
        table = stored.table.to_pandas()
        if len(table) != len(spec):
            problems.append((tar, f"{len(table)} rows, but the plan has {len(spec)}"))
        if not is_other:  # else it has been told
            problems += [(tar, problem) for problem in _tar_problems(tar, table)]
        return problems

    def load(self, spec: ShardSpec) -> StoredRows | None:
        """Read a shard's parquet; None unless it is intact."""
        if self._found(spec) is None:
            return None
        parquet = self.parquet(spec)
        return StoredRows(shard_rows.read_metadata(parquet), shard_rows.read_columns(parquet))

    def _found(self, spec: ShardSpec) -> Mapping[str, Any] | None:
        """Give what a shard's parquet says of its tar; None unless the parquet is intact."""
        parquet, shard = self.parquet(spec), self.stem(spec)
        found: Mapping[str, Any] | None = self._checked.find(parquet, lambda: shard_rows.check(parquet, shard))
        return found

    def _finished(self) -> Iterator[tuple[ShardSpec, Mapping[str, Any]]]:
        for spec in self.layout():
            if (found := self._found(spec)) is not None:
                yield spec, found


def check_tar(tar: Path) -> None:
    """Check that a tar which came from elsewhere is the one that its rows speak of; another one is removed.

    Raises:
        ShardError: it is not.
    """
    parquet = tar.with_suffix(".parquet")
    found = shard_rows.check(parquet, tar.stem)
    if found is not None and files.sha256(tar) != found["tar_sha256"]:
        tar.unlink()
        raise ShardError(
            f"{tar.name} on the store is not the one that {parquet.name} speaks of; delete it there, and the same "
            "command makes it again"
        )


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


def _ranges(rows: pa.Table) -> dict[str, tuple[int, int]]:
    """Give the range of image numbers of each class of a shard, in the order in which the classes come."""
    ranges: dict[str, tuple[int, int]] = {}
    for key, number in zip(rows["key"].to_pylist(), rows["number"].to_pylist(), strict=True):
        slug = str(key).rpartition("-")[0].removeprefix("plain_")
        first, _ = ranges.get(slug, (number, 0))
        ranges[slug] = (first, number + 1)
    return ranges


def _tar_problems(tar: Path, rows: pd.DataFrame) -> list[str]:
    """Compare the images of a tar with their rows."""
    finished = rows[rows["status"] == "ok"]
    expected = dict(zip(finished["key"], finished["class_index"].astype(int), strict=True))
    try:
        labels = {key: label for key, label, _ in read(tar)}
    except (ShardError, OSError) as error:
        return [reason_of(error)]
    wrong = sorted(key for key in {*labels, *expected} if labels.get(key) != expected.get(key))
    return [f"{counted(len(wrong), 'image', 'disagrees')} with the rows, first {wrong[0]!r}"] if wrong else []


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
                image_span, label_span = sample.image(image_files.FORMATS), sample.members.get("cls")
                if image_span is None or label_span is None:
                    raise ShardError(f"{tar.name}: sample {sample.key!r} lacks its image or label")
                image = Image.open(io.BytesIO(image_span.read(stream))).convert("RGB")
                yield sample.key, int(label_span.read(stream)), image
    except (*UNREADABLE_IMAGE, tarfile.TarError) as error:
        raise ShardError(f"{tar.name} cannot be read: {reason_of(error)}") from error


def _members(image: GeneratedImage, encoded: bytes, image_format: str) -> dict[str, Any]:
    """The files of one image in a tar."""
    untold: tuple[str, ...] = () if image.row.start_key else _UNTOLD
    untold += () if image.row.token_noise else _UNTOLD_WITHOUT_NOISE
    told = {key: value for key, value in shard_rows.record(image).items() if key not in untold}
    metadata = {key: value for key, value in told.items() if value == value and value is not None}
    return {
        "__key__": image.row.key,
        image_format: encoded,
        "cls": str(image.row.class_index).encode(),
        "json": json.dumps(metadata, ensure_ascii=False, sort_keys=True).encode(),
    }
