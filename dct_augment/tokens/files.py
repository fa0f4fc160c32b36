"""Class tokens on disk: one safetensors file per class that diffusers loads, and an index of all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dct_augment import files, tables
from dct_augment.config import comparable, differences, upgrade_token_identity
from dct_augment.diffusion import WordNorms
from dct_augment.errors import InputError, StaleRunError
from dct_augment.prompts import token_name
from dct_augment.records import ClassInfo, ClassToken, Verdict
from dct_augment.tokens import columns, formats
from dct_augment.tokens.formats import Token
from dct_augment.tokens.groups import Groups
from dct_augment.tokens.state import TrainedToken

_TELLING = ("updates", "unet_evaluations", "norm", "guide_accuracy")
"""Columns by which a row of the index is told from that of another training."""

INDEX, PLAN = "index.parquet", "plan.json"
_IMPORTED = "imported"

_LONGER = 100
"""How many times longer than the longest word, or shorter than the mean word, an imported vector may be."""


class TokenFolder:
    """The class tokens of one run: `<slug>.safetensors` and `index.parquet` in `path`."""

    def __init__(self, path: Path, dataset: str) -> None:
        self.path, self._dataset = path, dataset

    def file(self, info: ClassInfo) -> Path:
        """Where the token of a class is."""
        return self.path / f"{info.slug}.safetensors"

    def word(self, info: ClassInfo) -> str:
        """The token's word, `<dct-{dataset}-{class-slug}>`."""
        return token_name(self._dataset, info.slug)

    def metadata(self, info: ClassInfo, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Read the metadata of a finished token; None if there is none, or it is not readable.

        Raises:
            StaleRunError: it was trained with other settings.
        """
        try:
            (token,) = formats.read(self.file(info))
            metadata = dict(token.metadata)
            trained_with = upgrade_token_identity(metadata["identity"])
            name = str(metadata["class"])
        except (InputError, AttributeError, KeyError, TypeError, ValueError):
            return None
        if columns.problem_of(token):
            return None
        if trained_with != comparable(identity, trained_with):
            raise StaleRunError(
                f"{self.file(info)} was trained with other settings: "
                f"{'; '.join(differences(trained_with, identity))}. Use another --output, or delete the file"
            )
        if name != info.name:
            raise StaleRunError(
                f"{self.file(info)} was trained for {name!r}, but the class is called {info.name!r} now. "
                "Use another --output, or delete the file"
            )
        return metadata

    def is_usable(self, info: ClassInfo, *, any_verdict: bool = False) -> bool:
        """Whether there is a token to generate with: certified, imported, or with `any_verdict` any.

        Raises:
            InputError: its file is damaged.
        """
        if not self.file(info).is_file():
            return False
        return any_verdict or self.read(info).metadata.get("verdict") in (None, Verdict.CERTIFIED)

    def failure(self, info: ClassInfo, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Read the metadata of a training with these settings that gave no usable token; None if there was none."""
        try:
            metadata = formats.current_metadata(files.read_json(self._failed(info)))
            trained_with = upgrade_token_identity(metadata["identity"])
            is_same_training = trained_with == comparable(identity, trained_with)
            is_whole = is_same_training and metadata["class"] == info.name and not columns.wrong(metadata)
            return metadata if is_whole else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def _failed(self, info: ClassInfo) -> Path:
        return self.path / f"{info.slug}.failed.json"

    def groups(self) -> Groups:
        """Which classes train together, as recorded; if that is lost or damaged, as their tokens say."""
        recorded = self.recorded_groups()
        return self._groups_of_tokens() if recorded is None else recorded

    def recorded_groups(self) -> Groups | None:
        """Read which classes train together; None if it is not recorded, or damaged."""
        groups: Any = files.read_json(self.path / PLAN).get("groups")
        return tuple(tuple(group) for group in groups) if _are_groups(groups) else None

    def _groups_of_tokens(self) -> Groups:
        """Read from the index, and from tokens and failures, which classes trained together, in their order."""
        rows = {str(row.get("slug")): row for row in self.index().to_dict("records")}
        for path in (*self.path.glob("*.safetensors"), *self.path.glob("*.failed.json")):
            metadata = _metadata_of(path)
            rows[str(metadata.get("slug"))] = metadata
        trained = [
            row
            for row in rows.values()
            if columns.is_number(row.get("group")) and columns.is_number(row.get("class_index"))
        ]
        trained.sort(key=lambda row: row["class_index"])
        count = 1 + max((int(row["group"]) for row in trained), default=-1)
        return tuple(tuple(str(row["slug"]) for row in trained if row["group"] == number) for number in range(count))

    def record(self, groups: Groups) -> None:
        """Write which classes train together, before any does."""
        files.write_json(self.path / PLAN, {"groups": groups}, indent=1)

    def token(self, info: ClassInfo) -> ClassToken:
        """The token of a class as a record."""
        return ClassToken(self.word(info), info.slug, files.sha256(self.file(info)))

    def vector(self, info: ClassInfo) -> torch.Tensor:
        """The embedding of a class, (n, D) float32."""
        return self.read(info).vector

    def read(self, info: ClassInfo) -> Token:
        """The token file of a class.

        Raises:
            InputError: there is none, or it is damaged.
        """
        (token,) = formats.read(self.file(info))
        if problem := columns.problem_of(token):
            raise InputError(
                f"token file {str(self.file(info))!r} is damaged: {problem}. Delete it to train the token again"
            )
        return token

    def save(
        self, trained: TrainedToken, identity: Mapping[str, Any], base: Mapping[str, Any], group: int = 0
    ) -> dict[str, Any]:
        """Write one token, trained in a group, loadable by `pipe.load_textual_inversion`; return its metadata.

        An unusable token gets no safetensors file, but `<slug>.failed.json` that says why. `base` says of which
        text-to-image model it is an embedding: path, revision, family, and `blocks`: the items of
        `Backend.encoder_widths`.
        """
        best, plain, certificate = trained.best, trained.plain, trained.certificate
        metadata = {
            **self._untrained(trained.info, identity, base),
            "usable": trained.usable,
            "group": group,
            "stop_reason": str(trained.reason),
            "updates": trained.updates,
            "attempts": trained.attempts,
            "unet_evaluations": trained.evaluations,
            **columns.of_certificate(certificate),
            "guide_probability": best.probability if best else None,
            "plain_validation_accuracy": plain.accuracy if plain else None,
            "plain_validation_probability": plain.probability if plain else None,
            "norm": trained.vector.norm(dim=1).max().item(),
            "losses": [round(step.loss, 4) for step in trained.history],
            "validations": json.dumps([asdict(validation) for validation in trained.validations]),
            "origin": "trained",
        }
        if trained.usable:
            self._write(trained.info, formats.split(trained.vector, dict(base["blocks"])), metadata)
        else:
            files.write_json(self._failed(trained.info), metadata, indent=1)
        return metadata

    def refuse(
        self, info: ClassInfo, reason: str, identity: Mapping[str, Any], base: Mapping[str, Any], group: int = 0
    ) -> dict[str, Any]:
        """Record that no token of a class can be trained, and why; return the metadata, as those of `save`."""
        known = {"group": group, "stop_reason": reason, "origin": "refused"}
        metadata = {**self._untrained(info, identity, base), **known}
        files.write_json(self._failed(info), metadata, indent=1)
        return metadata

    def check_import(
        self,
        token: Token,
        info: ClassInfo,
        base: Mapping[str, Any],
        *,
        words: Sequence[WordNorms] = (),
        any_model: bool = False,
        replace: bool = False,
    ) -> None:
        """Check that a token from elsewhere can be the token of a class; nothing is written.

        `words` are those of each text encoder, if they are known.

        Raises:
            InputError: the class has a token already, or this one is of another width or another base model, or too
                short or too long beside the words of the model.
        """
        if self.file(info).exists() and not replace:
            raise InputError(
                f"{self.word(info)} is known already: {self.file(info)}. Use --replace, or another --output"
            )
        widths = tuple(width for _, width in base["blocks"])
        if token.widths != widths:
            raise InputError(
                f"token {token.word!r} has width {_sum(token.widths)}, but {base['path']} takes {_sum(widths)}: it was "
                "made for another kind of model"
            )
        made_for = formats.base_model(token.metadata)
        here = {key: base[key] for key in ("path", "revision")}
        if made_for and {key: made_for.get(key) for key in here} != here and not any_model:
            raise InputError(
                f"token {token.word!r} was made for {_model(made_for)}, not for {_model(base)}. Use --any-model if "
                "they share their text encoder"
            )
        if words:
            _refuse_other_lengths(token, words)

    def import_token(
        self, token: Token, info: ClassInfo, identity: Mapping[str, Any], base: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write a token from elsewhere, which has been checked, as the token of a class; return its metadata."""
        accuracies = ("guide_accuracy", "plain_guide_accuracy", "judge_accuracy", "plain_judge_accuracy")
        metadata = {
            **self._untrained(info, identity, base),
            "usable": True,
            "stop_reason": "imported",
            "norm": token.vector.norm(dim=1).max().item(),
            **{key: columns.number(token.metadata.get(key)) for key in accuracies},
            "updates": int(columns.number(token.metadata.get("updates")) or 0),
            "origin": f"{_IMPORTED}: {token.word}",
        }
        self._write(info, dict(token.parts), metadata)
        return metadata

    def _untrained(self, info: ClassInfo, identity: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of a class whose token has not been trained here: every column, empty where nothing is known."""
        return {
            "token": self.word(info),
            "class": info.name,
            "slug": info.slug,
            "class_index": info.index,
            "homonym": info.homonym,
            "usable": False,
            "group": None,
            "stop_reason": "",
            "updates": 0,
            "attempts": 0,
            "unet_evaluations": 0,
            **columns.of_certificate(None),
            "guide_probability": None,
            "plain_validation_accuracy": None,
            "plain_validation_probability": None,
            "norm": None,
            "losses": [],
            "validations": "[]",
            "origin": "",
            "base_model": json.dumps(dict(base)),
            "identity": dict(identity),
        }

    def _write(self, info: ClassInfo, parts: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
        tensors = {key or self.word(info): formats.flat(part) for key, part in parts.items()}
        formats.save(tensors, self.file(info), metadata)
        self._failed(info).unlink(missing_ok=True)

    def publish(self, metadata_of_classes: Sequence[Mapping[str, Any]]) -> None:
        """Write the index: a row per class, failed ones too."""
        if not metadata_of_classes:
            return
        rows = []
        for metadata in metadata_of_classes:
            rows.append({key: value for key, value in metadata.items() if key in columns.NAMES})
        table = pd.DataFrame(rows)
        tables.write(self.path / INDEX, table.sort_values("class_index"))

    def was_imported(self, info: ClassInfo) -> bool:
        """Whether the index says that the token of a class came from elsewhere."""
        index = self.index()
        if not {"slug", "origin"} <= set(index.columns):
            return False
        return any(str(origin).startswith(_IMPORTED) for origin in index.loc[index["slug"] == info.slug, "origin"])

    @property
    def has_damaged_index(self) -> bool:
        """Whether there is an index that cannot be read."""
        return (self.path / INDEX).exists() and tables.read(self.path / INDEX) is None

    @property
    def index_agrees(self) -> bool:
        """Whether the index says of the classes here what the files of their tokens and failures say."""
        for row in self.index().to_dict("records"):
            file = self.path / f"{row.get('slug')}.safetensors"
            metadata = _metadata_of(file if file.is_file() else file.with_suffix(".failed.json"))
            if metadata and any(not _is_same(row.get(key), metadata.get(key)) for key in _TELLING):
                return False
        return True

    def index(self) -> pd.DataFrame:
        """Read the index as a table; empty if there is none, or a damaged one: it is written again with each token."""
        stored = tables.read(self.path / INDEX)
        return pd.DataFrame() if stored is None else formats.current_table(stored.to_pandas())


def _metadata_of(path: Path) -> Mapping[str, Any]:
    """Read the metadata of a token or a failure; nothing if its file is damaged."""
    if path.suffix == ".json":
        return files.read_json(path)
    try:
        return formats.read(path)[0].metadata
    except InputError:
        return {}


def _is_same(one: Any, other: Any) -> bool:
    """Compare a value of the index with that of a file; in the index what is missing is not a number."""
    missing = [value is None or value != value for value in (one, other)]
    return all(missing) if any(missing) else bool(one == other)


def _are_groups(value: Any) -> bool:
    """Tell whether a value of a JSON file is a list of lists of slugs."""
    groups = value if isinstance(value, list) else [None]
    return all(isinstance(group, list) and all(isinstance(slug, str) for slug in group) for group in groups)


def _refuse_other_lengths(token: Token, words: Sequence[WordNorms]) -> None:
    """Check that the vectors of a token are about as long as words are.

    Raises:
        InputError: one is 0, or so short or long that it cannot be an embedding of this model.
    """
    for (key, part), norms in zip(token.parts.items(), words, strict=True):
        lengths = part.norm(dim=1)
        for length in (lengths.min().item(), lengths.max().item()):
            if not norms.mean_norm / _LONGER <= length <= norms.largest_norm * _LONGER:
                of_part = f" of {key}" if key else ""
                raise InputError(
                    f"token {token.word!r} has a vector{of_part} of length {length:.3g}, but the words of the model "
                    f"have {norms.mean_norm:.3g} on average and {norms.largest_norm:.3g} at most: it is no embedding "
                    "for this model. Get the file again, or train the token here"
                )


def _sum(widths: Sequence[int]) -> str:
    return " + ".join(map(str, widths))


def _model(base: Mapping[str, Any]) -> str:
    return f"{base['path']}@{base['revision']}" if base.get("revision") else str(base["path"])
