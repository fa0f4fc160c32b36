"""The records of benchmark trials on disk, and what each was made of."""

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dct_augment import config as configuration
from dct_augment import files
from dct_augment.benchmark.arms import ARMS, ArmFolders, arm_folder
from dct_augment.benchmark.trials import TrialPlan
from dct_augment.config import Config
from dct_augment.generation.shards import ShardFolder, shard_folder
from dct_augment.records import ImageKind, Trial


class TrialRecords:
    """One JSON file per trial in `benchmark/trials`, with an identity: a hash of all that decides the trial.

    All images are there before the first trial, so the shards are read once.
    """

    def __init__(self, config: Config, identity: Mapping[str, Any], arm_folders: ArmFolders) -> None:
        self._config, self._settings, self._arm_folders = config, identity, arm_folders
        self._shard_digests = cache(_shard_digests)
        # Its identities hash settings by their old names. Nothing is added to such a run: all that it has is its own.
        self._is_old = shard_folder(config.root, config.name, ImageKind.CLASS_TOKEN).is_old

    def read(self, plan: TrialPlan) -> dict[str, Any] | None:
        """Read a trial with its identity; None if it was not made with today's settings and images.

        In a run of version 0.1.0, every recorded trial is read.
        """
        path = self._path(plan)
        if not path.is_file():
            return None
        record = dict(json.loads(path.read_text(encoding="utf-8")))
        return record if self._is_old or record["identity"] == self._identity(plan) else None

    def write(self, plan: TrialPlan, trial: Trial) -> None:
        """Write a trial with its identity."""
        record = dataclasses.asdict(trial) | {"identity": self._identity(plan)}
        if record["val_accuracy"] != record["val_accuracy"]:
            record["val_accuracy"] = None  # JSON has no NaN
        files.write_text(self._path(plan), json.dumps(record) + "\n")

    def _path(self, plan: TrialPlan) -> Path:
        name = f"{plan.arm}-{plan.shots}-{plan.seed}-{plan.per_class}.json"
        return self._config.root / "benchmark" / "trials" / name

    def _identity(self, plan: TrialPlan) -> str:
        """Hash the settings, the plan, and the tars of the images that the trial may train on."""
        kind = ARMS[plan.arm].images
        tars: list[str] = []
        if kind is not None:
            root = arm_folder(self._arm_folders, plan.arm, plan.shots, plan.seed)
            shards = shard_folder(root, self._config.name, kind)
            tars = [digest for first, digest in self._shard_digests(shards) if first < plan.per_class]
        return configuration.fingerprint(self._settings, [plan.arm, plan.shots, plan.seed, plan.per_class], tars)


def _shard_digests(shards: ShardFolder) -> list[tuple[int, str]]:
    """The first image number and the digest of every shard of a folder."""
    return [(spec.first_number, shards.digest(spec)) for spec in shards.layout()]
