"""Readers of all kinds meet bytes and values that nobody wrote: the outcome is a result, or an error of ours."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dct_augment import config, datasets, files, tables
from dct_augment.config import by_class
from dct_augment.downstream.mixing import SyntheticImages
from dct_augment.errors import DctAugmentError, InputError
from dct_augment.export.runs import open_runs
from dct_augment.generation import shard_rows
from dct_augment.generation.shards import shard_folders
from dct_augment.pipeline.verify import verify
from dct_augment.pipeline.verify.token_files import token_problems
from dct_augment.tokens import columns, formats
from dct_augment.tokens.checkpoint import Checkpoint
from dct_augment.tokens.files import TokenFolder
from tests.conftest import CLASSES, make_run
from tests.robustness.pictures import png, samples, table, tar

MANY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=12,
)


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """What happens to a file: some bytes change, it is cut, grows, or is another."""
    places = draw(st.lists(st.tuples(st.floats(0, 0.999999), st.integers(1, 255)), min_size=1, max_size=4))
    kind = draw(st.sampled_from(["flip", "flip", "flip", "cut", "grow", "other"]))
    other = draw(st.binary(max_size=60))

    def apply(data: bytes) -> bytes:
        if kind == "cut":
            return data[: int(places[0][0] * len(data))]
        if kind == "grow":
            return data + other
        if kind == "other" or not data:
            return other
        changed = bytearray(data)
        for place, value in places:
            changed[int(place * len(changed))] ^= value
        return bytes(changed)

    return apply


def outcome(read: Callable[[], Any]) -> Any:
    """Give what a reader returns, or its error; any other error than ours fails the test."""
    try:
        return read()
    except DctAugmentError as error:
        message = str(error)
        assert not any(word in message for word in ("Traceback", "Errno", "errno", "unicode string"))
        return error


def _config(path: Path) -> Any:
    return config.load(str(path))


def _token(path: Path) -> Any:
    return [(token.word, token.vector.tolist(), dict(token.metadata)) for token in formats.read(path)]


def _data(kind: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        where = path if kind == "manifest" else path.parent
        section = config.DATASETS[kind].model_validate({"name": kind, "path": str(where)})
        dataset = datasets.load(section)  # type: ignore[arg-type]
        for split in ("train", "val", "test"):
            for one in dataset.examples(split):
                outcome(one.open)
        return len(dataset.classes)

    return read


def _classes_of(path: Path) -> Any:
    return by_class.read_words(path, "dataset.words")


def _write_token(path: Path) -> None:
    formats.save({"<dct-x-crane>": torch.arange(16.0)}, path, {"token": "<dct-x-crane>", "updates": 12})


def _write_config(path: Path) -> None:
    path.write_text("name: x\ndataset: {name: pocket}\nguide: {name: pocket/birds-guide}\ntokens:\n  seed: 3\n")


def _write_rows(path: Path) -> None:
    shard_rows.write(path, [{"key": "a-000000", "number": 0, "status": "ok"}], {"tar_sha256": "x", "shard": path.stem})


READERS: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], Any]]] = {
    "a configuration": ("c.yaml", _write_config, _config),
    "words": ("w.yaml", lambda path: path.write_text("crane: a bird\ngull: [x\n".replace("[x", "x")), _classes_of),
    "a table of words": ("w.csv", lambda path: path.write_text('class,words\ncrane,"a, b"\n'), _classes_of),
    "a token": ("t.safetensors", _write_token, _token),
    "a token of torch": ("t.pt", lambda path: torch.save({"<x>": torch.arange(4.0)}, path), _token),
    "a table": ("t.csv", lambda path: path.write_text("path,label\na.png,crane\nb.png,gull\n"), _data("manifest")),
    "lines": ("t.jsonl", lambda path: path.write_text('{"path": "a.png", "label": "crane"}\n'), _data("manifest")),
    "a parquet": ("t.parquet", table(path=["a.png", "b.png"], label=["crane", "gull"]), _data("manifest")),
    "a tar": ("a.tar", tar(samples(b"crane", b"gull")), _data("webdataset")),
    "a tar of JSON": ("a.tar", tar(samples(b'{"label": 0, "class_name": "x"}', ending="json")), _data("webdataset")),
    "rows": ("a.parquet", _write_rows, shard_rows.read),
}


@cache
def intact(name: str) -> bytes:
    """The bytes of a file of a reader as they are written."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / READERS[name][0]
        READERS[name][1](path)
        return path.read_bytes()


@pytest.mark.parametrize("name", READERS)
@MANY
@given(damage())
def test_a_reader_of_damaged_bytes_gives_a_result_or_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, _, read = READERS[name]
    for number, picture in enumerate("ab"):
        (tmp_path / f"{picture}.png").write_bytes(png(number))
    (tmp_path / file).write_bytes(change(intact(name)))
    outcome(lambda: read(tmp_path / file))


@MANY
@given(damage())
def test_a_token_is_what_was_written_or_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(intact("a token"))
    written = _token(path)
    path.write_bytes(change(intact("a token")))
    read = outcome(lambda: _token(path))
    assert isinstance(read, DctAugmentError) or read[0][1] == written[0][1]


@MANY
@given(damage())
def test_a_json_file_is_what_was_written_or_counts_as_missing(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    record = {"identity": "x", "accuracy": 0.625, "truth": [0, 1, 2], "é": None}
    path = tmp_path / "r.json"
    files.write_json(path, record)
    path.write_bytes(change(path.read_bytes()))
    read = files.read_json(path)
    assert {key: read[key] for key in record if key in read} in (record, {})


@MANY
@given(damage())
def test_a_table_is_what_was_written_or_counts_as_missing(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "t.parquet"
    tables.write(path, pd.DataFrame({"key": ["a", "b"], "rank": [1, 2]}))
    path.write_bytes(change(path.read_bytes()))
    read = tables.read(path, ["key", "rank"])
    assert read is None or read.to_pydict() == {"key": ["a", "b"], "rank": [1, 2]}


@MANY
@given(damage())
def test_a_state_of_training_is_what_was_written_or_counts_as_missing(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "state.pt"
    checkpoint = Checkpoint(path, {"seed": 0})
    checkpoint.write({"vector": torch.arange(3.0)})
    path.write_bytes(change(path.read_bytes()))
    state = checkpoint.last()
    assert state is None or state["vector"].tolist() == [0, 1, 2]


@MANY
@given(JSON)
def test_a_token_header_may_hold_anything(tmp_path: Path, value: Any) -> None:
    from safetensors.numpy import save_file

    path, folder = tmp_path / "crane.safetensors", TokenFolder(tmp_path, "tiny")
    for header in (value, {"token": value}, {"token": "<x>", "identity": value, "class": value, "verdict": value}):
        save_file({"<x>": np.ones(4, np.float32)}, path, {"dct_augment": json.dumps(header)})
        outcome(lambda: formats.read(path))
        outcome(lambda: folder.metadata(CLASSES[0], {"schema": 2, "tokens": {"seed": 0}, "guide": [{"name": "x"}]}))
        outcome(lambda: folder.is_usable(CLASSES[0]))


@MANY
@given(JSON | st.just(10**400), st.sampled_from(sorted(columns.NAMES)))
@example(10**400, "token")
@example(10**400, "updates")
@example("x", "norm")
def test_a_token_of_a_run_may_say_anything_and_the_index_holds_what_it_can(
    tmp_path: Path, value: Any, column: str
) -> None:
    (tmp_path / "tokens").mkdir(exist_ok=True)
    folder, (crane, kiwi) = TokenFolder(tmp_path / "tokens", "tiny"), CLASSES[:2]
    identity, base = {"schema": 2, "tokens": {"seed": 0}}, {"path": "tiny", "blocks": [["", 4]]}
    for info in (crane, kiwi):
        folder.import_token(formats.Token("<x>", {"": torch.ones(1, 4)}), info, identity, base)
    written = formats.read(folder.file(crane))[0]
    formats.save({written.word: written.vector[0]}, folder.file(crane), {**written.metadata, column: value})
    read = [folder.metadata(info, identity) for info in (crane, kiwi) if column != "class" or info is kiwi]
    folder.publish([metadata for metadata in read if metadata])
    told = [problem.path for problem in token_problems(folder, "tokens")]
    assert read[-1] is not None
    assert len(folder.index()) == len([metadata for metadata in read if metadata])
    if read[0] is None:
        assert folder.file(crane) in told
        assert isinstance(outcome(lambda: folder.read(crane)), InputError)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    run = make_run(tmp_path_factory.mktemp("finished") / "run")
    run.draw()
    return run.root


@MANY
@given(JSON, st.sampled_from(["shards/plan.json", "shards/_info.json", "shards/.checked-train.json", "config.yaml"]))
def test_the_json_files_of_a_run_may_hold_anything(finished: Path, value: Any, name: str) -> None:
    root = finished
    before = (root / name).read_bytes() if (root / name).exists() else None
    (root / name).write_text(json.dumps({"train": value} if "plan" in name else {"splits": value}))
    try:
        for read in (
            lambda: verify(root, "tiny"),
            lambda: open_runs([root]),
            lambda: SyntheticImages(root / "shards"),
            lambda: [folder.rows() for folder in shard_folders(root, "tiny").values()],
        ):
            outcome(read)
    finally:
        (root / name).unlink()
        if before is not None:
            (root / name).write_bytes(before)


@MANY
@given(st.text(max_size=30), st.text(max_size=30) | JSON.map(json.dumps))
def test_a_setting_may_hold_anything(key: str, value: str) -> None:
    outcome(lambda: config.load("pocket", [f"{key}={value}"]))
    outcome(lambda: config.load("pocket", [f"tokens.seed={value}", f"guide={value}", f"dataset={value}"]))
