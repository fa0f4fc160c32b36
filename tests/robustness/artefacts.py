"""Files that dct-augment or other tools wrote, damaged: tokens, plans, rows, tars, classifiers."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.conftest import make_run
from tests.robustness.case import Case, Files, Maker
from tests.robustness.pictures import png

Change = Callable[[Path], object]
"""Changes a run folder."""

_VECTOR = np.arange(1, 17, dtype=np.float32)


def _tensors(**tensors: np.ndarray) -> Maker:
    return lambda path: save_file(tensors or {"<x>": _VECTOR}, path)


def _with_header(metadata: str) -> Maker:
    return lambda path: save_file({"<x>": _VECTOR}, path, {"dct_augment": metadata})


def _token(said: str, content: str | bytes | Maker, name: str = "t.safetensors") -> Case:
    return Case(("tokens", "show", name), said, {name: content})


def _written(change: Callable[[bytes], bytes]) -> Maker:
    """Write a token as we do, and change its bytes."""

    def make(path: Path) -> None:
        import torch

        from dct_augment.tokens import formats

        formats.save({"<dct-x-crane>": torch.from_numpy(_VECTOR)}, path, {"token": "<dct-x-crane>", "updates": 12})
        path.write_bytes(change(path.read_bytes()))

    return make


_HEADER = "what its header says of the token cannot be read"
TOKENS = {
    "a token that is not there": Case(
        ("tokens", "show", "gone.safetensors"), "token file 'gone.safetensors' does not exist"
    ),
    "a token that is a folder": Case(
        ("tokens", "show", "t.safetensors"),
        "token file 't.safetensors' is a folder; give a file in it",
        {"t.safetensors/": ""},
    ),
    "an empty token": _token("is not a safetensors file: it is empty", b""),
    "a token of text": _token("is not a safetensors file", "hello"),
    "a token whose header has no end": _token("is not a safetensors file", b"\xff" * 8 + b"{}"),
    "a token whose header is deep": _token("is not a safetensors file", (99_999).to_bytes(8, "little") + b"[" * 99_999),
    "a token that is cut": _token("is not a safetensors file", _written(lambda data: data[:-1])),
    "a token with a flipped byte in its vector": _token(
        "its content is not what was written", _written(lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    ),
    "a token with another number in its header": _token(
        "its content is not what was written", _written(lambda data: data.replace(b": 12", b": 13"))
    ),
    "a token without tensors": _token("holds no embedding", lambda path: save_file({}, path)),
    "a token of whole numbers": _token("is no embedding of shape", _tensors(x=np.arange(4))),
    "a token of three axes": _token("is no embedding of shape", _tensors(x=np.ones((2, 2, 2), np.float32))),
    "a token of no axis": _token("is no embedding of shape", _tensors(x=np.ones((), np.float32))),
    "a token of no numbers": _token("'x' is empty, of shape (0,)", _tensors(x=np.ones(0, np.float32))),
    "a token of no vectors": _token("'x' is empty, of shape (0, 4)", _tensors(x=np.ones((0, 4), np.float32))),
    "a token that is not finite": _token(
        "'x' holds values that are not finite", _tensors(x=np.array([1, np.nan], np.float32))
    ),
    "an infinite token": _token("'x' holds values that are not finite", _tensors(x=np.array([1, np.inf], np.float32))),
    "half a pair": _token("must be one tensor, or clip_l and other", _tensors(clip_l=_VECTOR)),
    "a pair of two lengths": _token(
        "of one length", _tensors(clip_l=np.ones((2, 4), np.float32), clip_g=np.ones((1, 4), np.float32))
    ),
    **{
        f"a header of {name}": _token(_HEADER, _with_header(text))
        for name, text in {
            "no JSON": "{",
            "null": "null",
            "a number": "7",
            "a list": "[1]",
            "text": '"x"',
            "a list of pairs": '[["a", 1]]',
            "a depth of 9,999": "[" * 9_999,
            "a number of 5,000 digits": "9" * 5000,
            "words without metadata": '{"<x>": 3}',
            "words of null": '{"<x>": null}',
            "a token that is a list": '{"token": []}',
            "a token that is an object": '{"token": {}}',
        }.items()
    },
    "an old token that is no pickle": _token("is not a plain file of tensors", "hello", "t.pt"),
    "an old token that is empty": _token("is not a plain file of tensors", b"", "t.pt"),
    "an old token that runs code": _token("is not a plain file of tensors", b"cos\nsystem\n(S'true'\ntR.", "t.bin"),
    "a folder without tokens": Case(("tokens", "compare", "empty/", "empty/"), "holds no token files", {"empty/": ""}),
    "tokens of two widths": Case(
        ("tokens", "compare", "a.safetensors", "b.safetensors"),
        "<x> is (1, 16) in one and (1, 4) in the other",
        {"a.safetensors": _tensors(), "b.safetensors": _tensors(**{"<x>": np.ones(4, np.float32)})},
    ),
    "tokens of no common name": Case(
        ("tokens", "compare", "a", "b"),
        "have no token of the same name",
        {"a/": "", "b/": "", "a/1.safetensors": _tensors(a=_VECTOR, b=_VECTOR), "b/1.safetensors": _tensors(c=_VECTOR)},
    ),
}


def _run(change: Change) -> Maker:
    """Write a finished run, and change it."""

    def make(path: Path) -> None:
        run = make_run(path)
        run.draw()
        change(path)

    return make


def _text(name: str, content: str | bytes) -> Change:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda root: (root / name).write_bytes(data)


def _replaced(name: str, old: str, new: str) -> Change:
    def change(root: Path) -> None:
        before = (root / name).read_text()
        assert old in before, before
        (root / name).write_text(before.replace(old, new))

    return change


def _flipped(name: str, place: float) -> Change:
    """Flip a bit of a file, at a share of its length."""

    def change(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[int(place * len(data))] ^= 1
        (root / name).write_bytes(data)

    return change


def _pipe(name: str) -> Change:
    """Put a pipe in the place of a file: who opens it waits for one who writes."""

    def change(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return change


def _folder(name: str) -> Change:
    """Put a folder in the place of a file."""

    def change(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name).mkdir()

    return change


def _swapped(root: Path) -> None:
    for ending in ("tar", "parquet"):
        first, second = (root / "shards" / f"tiny-train-00000{number}.{ending}" for number in (0, 1))
        contents = first.read_bytes(), second.read_bytes()
        first.write_bytes(contents[1])
        second.write_bytes(contents[0])


def _emptied(root: Path) -> None:
    for path in (root / "shards").iterdir():
        path.unlink()


def _without_plan_and_rows(root: Path) -> None:
    (root / _PLAN).unlink()
    (root / _ROWS).unlink()


_EXPORT, _VERIFY = ("export", "run", "--to", "out"), ("verify", "--output", "run")


def _shards(said: str, *changes: Change, command: tuple[str, ...] = _EXPORT) -> Case:
    def all_changes(root: Path) -> None:
        for change in changes:
            change(root)

    return Case(command, said, {"run": _run(all_changes)})


_PLAN, _TAR, _ROWS = "shards/plan.json", "shards/tiny-train-000001.tar", "shards/tiny-train-000001.parquet"
_REPAIR = "`dct-augment verify --repair` reads the plan from the finished shards"
PLANS = {
    "a plan that is empty": _shards("plan.json is damaged: it is no JSON", _text(_PLAN, "")),
    "a plan that is no JSON": _shards("plan.json is damaged: it is no JSON, at line 1", _text(_PLAN, "{")),
    "a plan that is no text": _shards("plan.json is damaged: it is no text in UTF-8", _text(_PLAN, b"\xff")),
    "a plan that is null": _shards("plan.json is damaged: it holds no JSON object", _text(_PLAN, "null")),
    "a plan that is a list": _shards("plan.json is damaged: it holds no JSON object", _text(_PLAN, "[]")),
    "a plan that is deep": _shards("plan.json is damaged: it is nested too deeply", _text(_PLAN, "[" * 99_999)),
    "a plan with a number of 5,000 digits": _shards(
        "plan.json is damaged", _text(_PLAN, '{"train": %s}' % ("9" * 5000))
    ),
    "a plan with another number": _shards("its content is not what was written", _replaced(_PLAN, "[0,2]", "[0,3]")),
    "a plan whose shards are a number": _shards("its shards are no list", _text(_PLAN, '{"train": 3}')),
    "a plan whose shard is null": _shards("shard 0 has no ranges", _text(_PLAN, '{"train": [null]}')),
    "a plan whose shard is a list": _shards("shard 0 has no ranges", _text(_PLAN, '{"train": [[]]}')),
    "a plan whose range is a number": _shards(_REPAIR, _text(_PLAN, '{"train": [{"crane": 3}]}')),
    "a plan whose range is of three": _shards(
        "of 'crane', but [0, 1, 2]", _text(_PLAN, '{"train": [{"crane": [0, 1, 2]}]}')
    ),
    "a plan whose range is text": _shards(
        "of 'crane', but ['0', '1']", _text(_PLAN, '{"train": [{"crane": ["0", "1"]}]}')
    ),
    "a plan whose range ends before it begins": _shards(
        "of 'crane', but [5, 2]", _text(_PLAN, '{"train": [{"crane": [5, 2]}]}')
    ),
    "a plan whose range is below 0": _shards(
        "of 'crane', but [-1, 2]", _text(_PLAN, '{"train": [{"crane": [-1, 2]}]}')
    ),
    "no plan, and a shard between others is missing": _shards(
        "plan.json is missing, and of shard 1, whose images only it names", _without_plan_and_rows
    ),
}
SHARDS = {
    "rows that are empty": _shards("tiny-train-000001.parquet is damaged", _text(_ROWS, b"")),
    "rows of text": _shards("tiny-train-000001.parquet is damaged", _text(_ROWS, "PAR1 hello PAR1")),
    "rows with a flipped bit at a tenth": _shards("tiny-train-000001.parquet is damaged", _flipped(_ROWS, 0.1)),
    "rows with a flipped bit at nine tenths": _shards("tiny-train-000001.parquet is damaged", _flipped(_ROWS, 0.9)),
    "a tar that is gone": _shards("tiny-train-000001.tar is missing", lambda root: (root / _TAR).unlink()),
    "a tar with a flipped bit": _shards("tiny-train-000001.tar is damaged: its SHA-256", _flipped(_TAR, 0.3)),
    "a shard that is cut": _shards("tiny-train-000001.tar is damaged: its SHA-256", _text(_TAR, b"x" * 2000)),
    "two shards in each other's place": _shards("is damaged", _swapped),
    **{
        f"{what} that is {kind}": _shards(said, put(name))
        for kind, put in (("a pipe", _pipe), ("a folder", _folder))
        for what, name, said in (
            ("a plan", _PLAN, "plan.json"),
            ("a tar", _TAR, "tiny-train-000001.tar"),
        )
    },
    "no shard": _shards("holds no finished class-token images", _emptied),
    "shards of two runs": _shards("holds the shards of several runs", _text("shards/other-train-000000.parquet", b"x")),
    "a recorded configuration that is no YAML": _shards(
        "run/config.yaml: 1 problem - not valid YAML", _text("config.yaml", "[")
    ),
    "a recorded configuration that is no text": _shards("it is no text in UTF-8", _text("config.yaml", b"\xff")),
    "a recorded configuration that is deep": _shards("nested too deeply", _text("config.yaml", "[" * 9_999)),
    "one run twice": Case(
        ("export", "run", "run", "--to", "out"), "run is given twice", {"run": _run(lambda root: None)}
    ),
}


def _classifier(said: str, **files: str | bytes) -> Case:
    contents: Files = {f"kept/{name.replace('_', '.')}": content for name, content in files.items()}
    return Case(("predict", "kept", "x.png"), said, {"x.png": png(), "kept/": "", **contents})


def _settings(**changes: object) -> str:
    return json.dumps({"temperature": 1.0, "threshold": None} | changes)


_CONFIG = '{"architecture": "test_vit", "num_classes": 2}'
CLASSIFIERS = {
    "a folder without a classifier": _classifier("no classifier in 'kept'"),
    "a classifier whose configuration is no JSON": _classifier("kept", config_json="{"),
    "a classifier whose configuration is a list": _classifier("kept", config_json="[]"),
    "a classifier whose configuration is deep": _classifier("kept", config_json="[" * 99_999),
    "a classifier without weights": _classifier("kept", config_json=_CONFIG),
    "a classifier whose weights are text": _classifier("kept", config_json=_CONFIG, model_safetensors="hello"),
    "a classifier of an unknown architecture": _classifier("kept", config_json='{"architecture": "no_such"}'),
    **{
        f"a classifier whose settings have {name}": _classifier(
            "classifier.json", config_json=_CONFIG, classifier_json=text
        )
        for name, text in {
            "no JSON": "{",
            "a list": "[]",
            "a depth of 99,999": "[" * 99_999,
            "no temperature": "{}",
            "a temperature of text": _settings(temperature="x"),
            "a temperature of 0": _settings(temperature=0),
            "a temperature of 400 digits": '{"temperature": %s, "threshold": null}' % ("9" * 400),
            "a threshold above 1": _settings(threshold=2),
            "a threshold that is a list": _settings(threshold=[]),
            "other weights": _settings(files={"config.json": "0" * 64}),
        }.items()
    },
}
