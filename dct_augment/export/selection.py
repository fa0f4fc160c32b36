"""Which images of some runs are exported: finished ones of the chosen classes that the filter accepts."""

import hashlib
import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from tarfile import TarError
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dct_augment import files, tars
from dct_augment.errors import InputError, ShardError
from dct_augment.export.rows import ExportClass, ExportImage, kind_of, make_row
from dct_augment.export.runs import SourceRun
from dct_augment.generation.filter import rejection
from dct_augment.generation.plan import ShardSpec
from dct_augment.images import UNREADABLE_IMAGE, content
from dct_augment.records import ImageKind, Progress, ProgressCallback
from dct_augment.wording import command_of, reason_of

STAGE = "export"
_ENDINGS = ("png", "webp", "jpg")
_SAME_FILE = "the same file as an earlier run's"
_PLAIN_PROMPT = "made with the plain prompt, as the class has no certified token"


@dataclass
class ClassTally:
    """What is known of one class of one run, of the images that are exported."""

    slug: str
    name: str
    index: int
    images: int = 0
    guide_right: int = 0
    judge_right: int = 0
    judged: int = 0
    prompt: str = ""
    tokens: dict[str, None] = field(default_factory=dict)

    def count(self, row: Mapping[str, Any]) -> None:
        """Count an image."""
        self.images += 1
        self.guide_right += bool(row["guide_right"])
        self.judge_right += bool(row["judge_right"])
        self.judged += row["judge_right"] is not None
        self.prompt = self.prompt or str(row["prompt"])
        if row["token_sha256"]:
            self.tokens[str(row["token_sha256"])] = None


@dataclass(frozen=True)
class Selection:
    """The images to export: for each shard which of its rows, and what that comes to.

    `classes` has a tally for each run (its place) and class (its slug); `without_images` names the classes of which
    none is left; `left_out` counts the other images by reason; `unfinished` are planned and not generated yet.
    """

    runs: tuple[SourceRun, ...]
    chosen: tuple[tuple[int, ShardSpec, NDArray[np.bool_]], ...]
    classes: Mapping[tuple[int, str], ClassTally]
    without_images: tuple[str, ...]
    left_out: Mapping[str, int]
    unfinished: int

    def __len__(self) -> int:
        return sum(tally.images for tally in self.classes.values())

    def images(self, targets: Mapping[tuple[int, str], ExportClass]) -> Iterator[ExportImage]:
        """Yield the images shard by shard, as classes of the export.

        Raises:
            ShardError: a shard changed since it was selected from.
        """
        for place, spec, mask in self.chosen:
            run = self.runs[place]
            rows = _rows(run, spec) or []
            if len(rows) != len(mask):
                raise _damaged(run, f"{run.shards.parquet(spec)} changed while it was read")
            for row, ending, data in _read(run, spec, rows, mask):
                target = targets[place, _slug(row)]
                yield ExportImage(ending, data, target, make_row(run.key(row["key"]), run.name, target, row))


def select(
    runs: Sequence[SourceRun],
    *,
    classes: Collection[str] | None,
    confidences: Sequence[float | None],
    progress: ProgressCallback,
) -> Selection:
    """Choose the images to export.

    Args:
        runs: the runs.
        classes: only these classes, by name or slug; all for None.
        confidences: by which confidence the images of each run are filtered; not at all for None.
        progress: receives how many shards were looked at.

    Raises:
        InputError: a class that is in no run, or no image is left.
        ShardError: a shard is damaged.
    """
    chooser = _Chooser(_requested(classes), len(runs) > 1)
    plans = [(place, spec) for place, run in enumerate(runs) for spec in run.shards.layout()]
    for done, (place, spec) in enumerate(plans, 1):
        chooser.look_at(place, runs[place], spec, confidences[place])
        progress(Progress(f"{STAGE}: look at shards", done, len(plans), runs[place].shards.stem(spec)))
    chooser.refuse_unknown_classes()
    tallies = {key: tally for key, tally in chooser.classes.items() if tally.images}
    if not tallies:
        reasons = ", ".join(f"{count} {reason}" for reason, count in chooser.left_out.items()) or "there are none"
        raise InputError(f"no image is left to export: {reasons}. Take a lower --filter, or generate more images")
    left = {(runs[place].data_set, slug) for place, slug in tallies}
    without: dict[str, None] = {}
    for (place, slug), tally in chooser.classes.items():
        if (runs[place].data_set, slug) not in left:
            without[tally.name] = None
    return Selection(
        tuple(runs), tuple(chooser.chosen), tallies, tuple(without), dict(chooser.left_out), chooser.unfinished
    )


class _Chooser:
    """Looks at shards one by one. Of each image it keeps one bit, and a hash where duplicates matter."""

    def __init__(self, requested: frozenset[str] | None, several_runs: bool) -> None:
        self._requested, self._several_runs = requested, several_runs
        self._known: dict[str, None] = {}
        self._spellings: set[str] = set()
        self._pixels: set[bytes] = set()
        self._files: dict[bytes, int] = {}
        self.chosen: list[tuple[int, ShardSpec, NDArray[np.bool_]]] = []
        self.classes: dict[tuple[int, str], ClassTally] = {}
        self.left_out: Counter[str] = Counter()
        self.unfinished = 0

    def look_at(self, place: int, run: SourceRun, spec: ShardSpec, confidence: float | None) -> None:
        """Choose the images of one shard."""
        rows = _rows(run, spec)
        if rows is None:
            self.unfinished += len(spec)
            return
        asked = np.array([self._is_requested(row) for row in rows], dtype=bool)
        accepted = np.zeros(len(rows), dtype=bool)
        places = {row["key"]: number for number, row in enumerate(rows)}
        for number in np.flatnonzero(asked):
            row = rows[number]
            self._tally(place, row)
            if row["status"] != "ok":
                self.left_out["not generated"] += 1
            elif kind_of(row) == ImageKind.PLAIN_PROMPT:
                self.left_out[_PLAIN_PROMPT] += 1
                asked[number] = False
        for row, _, data in _read(run, spec, rows, asked):
            reason = self._reason(place, run, row, data, confidence)
            if reason:
                self.left_out[reason] += 1
                continue
            accepted[places[row["key"]]] = True
            self._tally(place, row).count(row)
        if accepted.any():
            self.chosen.append((place, spec, accepted))

    def refuse_unknown_classes(self) -> None:
        """Check that every class that was asked for is in a run."""
        unknown = sorted((self._requested or frozenset()) - self._spellings)
        if unknown:
            raise InputError(
                f"classes {', '.join(map(repr, unknown))} are in none of the runs; there are: "
                + ", ".join(list(self._known)[:200])
            )

    def _is_requested(self, row: Mapping[str, Any]) -> bool:
        spellings = {str(row["class_name"]).lower(), _slug(row)}
        self._known[str(row["class_name"])] = None
        self._spellings |= spellings
        return self._requested is None or bool(spellings & self._requested)

    def _reason(self, place: int, run: SourceRun, row: Mapping[str, Any], data: bytes, confidence: float | None) -> str:
        """Say why an image stays out; empty if it does not."""
        if self._several_runs:
            digest = hashlib.blake2b(data, digest_size=16).digest()
            if self._files.setdefault(digest, place) != place:
                return _SAME_FILE
        if confidence is None:
            return ""
        pixels = bytes.fromhex(content(_decode(run, row, data)))[:16]
        is_duplicate = pixels in self._pixels
        self._pixels.add(pixels)
        return rejection(row, is_duplicate, confidence)

    def _tally(self, place: int, row: Mapping[str, Any]) -> ClassTally:
        slug = _slug(row)
        if (place, slug) not in self.classes:
            self.classes[place, slug] = ClassTally(slug, " ".join(str(row["class_name"]).split()), row["class_index"])
        return self.classes[place, slug]


def _requested(classes: Collection[str] | None) -> frozenset[str] | None:
    """Bring the classes that were asked for into the form in which they are compared."""
    if classes is None:
        return None
    names = frozenset(name.strip().lower() for name in classes if name.strip())
    if not names:
        raise InputError("no class given; name one or more, separated by commas, or leave out --classes")
    return names


def _slug(row: Mapping[str, Any]) -> str:
    """Read the slug of an image's class from its key, `<slug>-<number>`."""
    return str(row["key"]).rpartition("-")[0]


def _rows(run: SourceRun, spec: ShardSpec) -> list[dict[str, Any]] | None:
    """Read the rows of a shard; None if it is not finished.

    Raises:
        ShardError: it is damaged.
    """
    if not run.shards.parquet(spec).is_file():
        return None
    stored = run.shards.load(spec)
    if stored is None:
        raise _damaged(run, f"{run.shards.parquet(spec)} is damaged")
    tar = run.shards.tar(spec)
    if not tar.is_file():
        raise _damaged(run, f"{tar} is missing")
    if files.sha256(tar) != stored.metadata["tar_sha256"]:
        raise _damaged(run, f"{tar} is damaged: its SHA-256 is not the one in its parquet")
    return list(stored.table.to_pylist())


def _read(
    run: SourceRun, spec: ShardSpec, rows: Sequence[dict[str, Any]], mask: NDArray[np.bool_]
) -> Iterator[tuple[dict[str, Any], str, bytes]]:
    """Yield row, ending and bytes of the finished images of a shard whose row is in the mask, in the order of rows."""
    tar = run.shards.tar(spec)
    try:
        samples = {sample.key: sample for sample in tars.index(tar)}
        with tar.open("rb") as stream:
            for row, is_in in zip(rows, mask, strict=True):
                if not is_in or row["status"] != "ok":
                    continue
                members = samples[row["key"]].members
                ending = next(ending for ending in members if ending in _ENDINGS)
                yield row, ending, members[ending].read(stream)
    except (OSError, TarError, KeyError, StopIteration) as error:
        raise _damaged(run, f"{tar} does not hold what its rows say ({reason_of(error)})") from error


def _decode(run: SourceRun, row: Mapping[str, Any], data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except UNREADABLE_IMAGE as error:
        raise _damaged(run, f"image {row['key']!r} of {run.root} cannot be read: {reason_of(error)}") from error


def _damaged(run: SourceRun, what: str) -> ShardError:
    return ShardError(
        f"{what}. `{command_of('verify', run.root)}` tells more; `{command_of('generate', run.root)}` makes the shard "
        "again. Nothing was exported"
    )
