"""The records of benchmark trials on disk, and what each was made of."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dct_augment import config as configuration
from dct_augment import files
from dct_augment.benchmark.arms import ARMS, ArmFolders, arm_folder, selected_by_guide
from dct_augment.benchmark.trials import TrialPlan
from dct_augment.config import Config
from dct_augment.errors import InputError
from dct_augment.generation.shards import ShardFolder, shard_folder
from dct_augment.records import ImageKind, Trial
from dct_augment.wording import command_of, counted, listed

_PLANNED_BY = {
    "arm": "benchmark.arms",
    "shots": "benchmark.shots or shots_curve",
    "seed": "benchmark.seed or seeds",
    "per_class": "benchmark.per_class, per_class_curve or ratios",
    "other_model": "downstream.other_models",
}
"""The settings that decide which trials are planned, by what they decide of a trial."""

_REAL_IMAGES, _SYNTHETIC_IMAGES = "the real images", "the synthetic images"


@dataclass(frozen=True)
class OtherTrials:
    """Recorded trials that the configuration does not have: how many, and what differs.

    `differences` are keys of settings, or kinds of images. Of `unknown` trials the settings were not recorded, as
    older versions did. `damaged` are the files of trials that cannot be read.
    """

    count: int
    differences: tuple[str, ...]
    unknown: int
    damaged: tuple[Path, ...] = ()

    def remark(self, root: Path) -> str:
        """Say how many there are, what differs, how to see them, and which cannot be read; empty if there are none."""
        return " ".join(filter(None, [self._others(root), self._damaged(root)]))

    def _damaged(self, root: Path) -> str:
        if not self.damaged:
            return ""
        names = listed(list(map(str, self.damaged)), 3)
        which = counted(len(self.damaged), "recorded trial")
        return f"{which} cannot be read: {names}. `{command_of('benchmark', root)}` makes what is damaged again."

    def _others(self, root: Path) -> str:
        if not self.count:
            return ""
        which = ", ".join(self.differences)
        if self.unknown:
            which += f"{'; ' if which else ''}of {counted(self.unknown, 'trial')} it is not recorded with which"
        made = f"{counted(self.count, 'recorded trial', 'was')} made with other settings or images ({which})."
        if {*self.differences} <= {_REAL_IMAGES, _SYNTHETIC_IMAGES} and not self.unknown:
            return f"{made} `{command_of('benchmark', root)}` makes them again with the images of today."
        return f"{made} To see them, give the same --set. {root / 'config.yaml'} has the settings of the last work."


class TrialRecords:
    """One JSON file per trial in `benchmark/trials`, with an identity: a hash of all that decides the trial.

    The logits of cross-validation lie beside it in `<trial>.npy`, whose SHA-256 is in the record.

    All images are there before the first trial, so the shards are read once.

    Args:
        config: of the run.
        settings: what decides a trial, by its `other_model`.
        arm_folders: where the images of the arms are.
    """

    def __init__(self, config: Config, settings: Mapping[str, Mapping[str, Any]], arm_folders: ArmFolders) -> None:
        self._config, self._settings, self._arm_folders = config, settings, arm_folders
        self._folder = config.root / "benchmark" / "trials"
        self._shard_digests = cache(_shard_digests)
        # Its identities hash settings by their old names. Nothing is added to such a run: all that it has is its own.
        self._is_old = shard_folder(config.root, config.name, ImageKind.CLASS_TOKEN).is_old

    def read(self, plan: TrialPlan) -> dict[str, Any] | None:
        """Read a trial with its identity; None if it was not made with today's settings and images, or is damaged.

        Without the very logits that were written a trial is damaged.

        In a run of version 0.1.0, every recorded trial is read.
        """
        record = _read(self._path(plan))
        if record is None or not self._has_logits(plan, record):
            return None
        return record if self._is_old or record["identity"] == self._identity(plan) else None

    def write(self, plan: TrialPlan, trial: Trial) -> None:
        """Write a trial with its identity, and the settings that are a part of it; its logits, if any, in a file."""
        digest = self._write_logits(plan, trial) if trial.logits else None
        record = dataclasses.asdict(dataclasses.replace(trial, logits=())) | {
            "logits": digest,
            "identity": self._identity(plan),
            "settings": dict(self._settings[plan.other_model]),
        }
        if record["val_accuracy"] != record["val_accuracy"]:
            record["val_accuracy"] = None  # JSON has no NaN
        files.write_json(self._path(plan), record)

    def _write_logits(self, plan: TrialPlan, trial: Trial) -> str:
        """Write `<trial>.npy`, float32; return its SHA-256."""
        path = self._path(plan).with_suffix(".npy")
        with files.atomic(path) as partial, partial.open("wb") as stream:
            np.save(stream, np.array(trial.logits, np.float32))
        return files.sha256(path)

    def _has_logits(self, plan: TrialPlan, record: Mapping[str, Any]) -> bool:
        """Whether the file of a trial's logits is what was written, if it has one."""
        return has_logits(self._path(plan), record["logits"])

    def damage(self, plan: TrialPlan) -> str:
        """Name the file of a recorded trial that is damaged or lost; empty if there is none."""
        path = self._path(plan)
        if not path.is_file():
            return ""
        record = _read(path)
        if record is None:
            return f"{path} is damaged"
        logits = path.with_suffix(".npy")
        return "" if self._has_logits(plan, record) else f"{logits} is {'damaged' if logits.is_file() else 'lost'}"

    def logits(self, plan: TrialPlan) -> np.ndarray:
        """Read the logits (N, K) of a recorded trial; those of an older version are in its record.

        Raises:
            InputError: they are not those that were written.
        """
        record = _read(self._path(plan)) or {}
        recorded = record.get("logits", ())
        if not isinstance(recorded, str):
            return np.array(recorded, np.float32)
        path = self._path(plan).with_suffix(".npy")
        if not path.is_file() or files.sha256(path) != recorded:
            raise InputError(
                f"{str(path)!r} does not hold the logits that were recorded; delete the file, and the same command "
                "runs the trial again"
            )
        logits: np.ndarray = np.load(path)
        return logits

    def others(self, plans: Sequence[TrialPlan]) -> OtherTrials:
        """Find the recorded trials that are not in the plan, or not made with today's settings and images."""
        planned = {self._path(plan).name: plan for plan in plans}
        differences: set[str] = set()
        count = unknown = 0
        damaged = []
        for path in sorted(self._folder.glob("*.json")):
            plan = planned.get(path.name)
            if plan is not None and self.read(plan) is not None:
                continue
            record = _read(path)
            if record is None or not has_logits(path, record["logits"]):
                damaged.append(path)
                continue
            found = {*_unplanned(record, plans), *self._differences(record)}
            if not found and "settings" in record:
                found = {_SYNTHETIC_IMAGES}
            count += 1
            unknown += not found
            differences |= found
        return OtherTrials(count, tuple(sorted(differences)), unknown, tuple(damaged))

    def _differences(self, record: Mapping[str, Any]) -> Iterator[str]:
        """Yield the settings of a trial that are not those of today."""
        today = json.loads(json.dumps(self._settings.get(record["other_model"], self._settings[""])))
        for line in configuration.differences(record.get("settings", today), today):
            key = line.partition(": ")[0]
            yield _REAL_IMAGES if key == "dataset.images" else key

    def _path(self, plan: TrialPlan) -> Path:
        return self._folder / trial_file(plan.arm, plan.shots, plan.seed, plan.per_class, plan.other_model)

    def _identity(self, plan: TrialPlan) -> str:
        """Hash the settings, the plan, and the tars of the images that the trial may train on."""
        kind = ARMS[plan.arm].images
        tars: list[str] = []
        if kind is not None:
            root = arm_folder(self._arm_folders, plan.arm, plan.shots, plan.seed)
            shards = shard_folder(root, self._config.name, kind)
            settings = self._config.benchmark
            most = settings.candidate_count if selected_by_guide(settings, plan.arm) else plan.per_class
            tars = [digest for first, digest in self._shard_digests(shards) if first < most]
        return configuration.fingerprint(
            self._settings[plan.other_model], [plan.arm, plan.shots, plan.seed, plan.per_class], tars
        )


def trial_file(arm: str, shots: int, seed: int, per_class: int, other_model: str) -> str:
    """Name the file of a trial."""
    model = f"-{configuration.fingerprint(other_model)[:12]}" if other_model else ""
    return f"{arm}-{shots}-{seed}-{per_class}{model}.json"


def has_logits(path: Path, recorded: Any) -> bool:
    """Tell whether the logits of a trial lie beside its record as their hash in it says, if it has one."""
    if not isinstance(recorded, str):
        return True
    logits = path.with_suffix(".npy")
    try:
        status = logits.stat()
    except OSError:
        return False
    return _sha256(logits, status.st_size, status.st_mtime_ns, status.st_ino) == recorded


@lru_cache(maxsize=10_000)
def _sha256(path: Path, *stamp: int) -> str:
    """Hash a file; one that has not changed is read once by a process."""
    return files.sha256(path)


def _read(path: Path) -> dict[str, Any] | None:
    """Read the record of a trial; None if it is not there, or damaged."""
    record = {"other_model": "", "logits": ()} | files.read_json(path)
    return record if _is_record(record) else None


def _is_record(record: Mapping[str, Any]) -> bool:
    """Tell whether a JSON object is of the form of a trial; older versions wrote less, and no hash."""
    forms = {"identity": str, "arm": str, "shots": int, "seed": int, "per_class": int, "other_model": str}
    if not all(isinstance(record.get(key), kind) for key, kind in forms.items()):
        return False
    answers = [record.get(key, []) for key in ("truth", "predicted")]
    if not all(isinstance(given, list) and all(isinstance(label, int) for label in given) for given in answers):
        return False
    is_share = isinstance(record.get("accuracy"), int | float) and 0 <= record["accuracy"] <= 1
    return is_share and len(answers[0]) == len(answers[1]) and isinstance(record.get("settings", {}), dict)


def _unplanned(record: Mapping[str, Any], plans: Sequence[TrialPlan]) -> Iterator[str]:
    """Yield the settings because of which a trial is not in the plan."""
    fields = [field.name for field in dataclasses.fields(TrialPlan)]
    if any(all(record.get(field) == getattr(plan, field) for field in fields) for plan in plans):
        return
    alone = [field for field in fields if record.get(field) not in {getattr(plan, field) for plan in plans}]
    for field in alone or fields:
        yield _PLANNED_BY[field]


def _shard_digests(shards: ShardFolder) -> list[tuple[int, str]]:
    """The first image number and the digest of every shard of a folder."""
    return [(spec.first_number, shards.digest(spec)) for spec in shards.layout()]
