"""The promises of SECURITY.md, each with a test that carries its name."""

import ast
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dct_augment import config, datasets, prompts
from dct_augment.classifiers import timm_models
from dct_augment.errors import DctAugmentError
from dct_augment.export import export_images
from dct_augment.records import ClassInfo
from dct_augment.tokens import formats
from dct_augment.tokens.checkpoint import Checkpoint
from tests.export.finished_runs import finish

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "dct_augment").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])
HOSTILE = (
    ("../../evil", "/etc/evil", ".."),
    ("a/../../b", "nul\\con", "~"),
    ("<script>alert(1)</script>", "{0.x}", "-rf"),
)


class Evil:
    """What writes a file when a pickle of it is run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path(self._path).touch, ())


def read_token(path: Path) -> None:
    formats.read(path)


def read_guide(path: Path) -> None:
    timm_models._state_dict(path, "of others")


def read_training_state(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data + hashlib.sha256(data).digest())  # as if it were whole
    Checkpoint(path, {}).last()


@pytest.mark.parametrize("read", [read_token, read_guide, read_training_state])
def test_no_pickle_is_run(read: Callable[[Path], None], tmp_path: Path) -> None:
    torch.save({"fingerprint": Evil(tmp_path / "owned"), "<toy>": Evil(tmp_path / "owned")}, tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "owned").exists()  # it would
    (tmp_path / "owned").unlink()
    with pytest.raises(Exception, match=r"(?i)tensors|cannot be read|weights"):
        read(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    """The calls in our sources of what has this name, or ends in it."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name):
                yield path, node


def value(call: ast.Call, keyword: str) -> str | None:
    return next((ast.unparse(given.value) for given in call.keywords if given.arg == keyword), None)


def test_nothing_is_evaluated_and_no_shell_is_started() -> None:
    for name in ("pickle.load", "pickle.loads", "unsafe_load", "os.system", "os.popen"):
        assert [path for path, call in calls(name)] == []
    for name in ("eval", "exec"):
        assert [path for path, call in calls(name) if ast.unparse(call.func) == name] == []
    for path, call in [*calls("torch.load"), *calls("subprocess.run"), *calls("subprocess.Popen"), *calls("np.load")]:
        assert value(call, "shell") is None, path
        assert value(call, "allow_pickle") in (None, "False"), path
        assert value(call, "weights_only") == "True" or "torch.load" not in ast.unparse(call.func), path


def test_code_of_a_model_repository_is_not_run() -> None:
    for path in SOURCES:
        assert "trust_remote_code=True" not in path.read_text(encoding="utf-8").replace(" ", "")
    given = [value(call, "trust_remote_code") for _, call in calls("AutoConfig.from_pretrained")]
    assert given
    assert set(given) <= {"False", None}


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("names", HOSTILE, ids=lambda names: "-".join(prompts.slugs(names)))
def test_nothing_is_written_outside_whatever_a_class_is_called(names: tuple[str, ...], tmp_path: Path) -> None:
    named = zip(names, prompts.slugs(names), strict=True)
    classes = [ClassInfo(index, name, slug) for index, (name, slug) in enumerate(named)]
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    finish(inside / "run", classes=classes, per_class=1)
    for form in ("imagefolder", "csv", "webdataset"):
        export_images(inside / "run", inside / form, form)
        assert len([path for path in (inside / form).rglob("*") if path.is_file()]) > 1
    assert {path for path in everything_in(tmp_path) if not path.startswith("a/b/c")} == {"a", "a/b"}


def test_nothing_is_written_outside_whatever_a_member_of_an_archive_is_called(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "PNG")
    with tarfile.open(inside / "train-000000.tar", "w") as tar:
        for number, name in enumerate(("../../evil", "/etc/evil-of-a-test", "good")):
            for ending, data in (("png", picture.getvalue()), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    dataset = f"dataset: {{name: webdataset, path: {str(inside)!r}}}"
    (inside / "x.yaml").write_text(f"name: x\n{dataset}\nguide: {{name: pocket/birds-guide}}\n")
    try:
        for example in datasets.load(config.load(str(inside / "x.yaml")).dataset).train:
            example.open()
    except DctAugmentError:
        pass  # to refuse it is good, too
    assert not Path("/etc/evil-of-a-test.png").exists()
    assert everything_in(tmp_path) == {"a", "a/b", "a/b/train-000000.tar", "a/b/x.yaml"}


def test_a_page_runs_no_code_that_a_class_name_holds() -> None:
    for path, call in calls("Environment"):
        assert value(call, "autoescape") not in (None, "False"), path
    assert list(calls("Environment"))


def test_nothing_is_sent_of_how_it_is_used() -> None:
    names = ["DO_NOT_TRACK", "ORT_DISABLE_TELEMETRY", "PREFECT_SERVER_ANALYTICS_ENABLED", "RAY_USAGE_STATS_ENABLED"]
    unset = {name: text for name, text in os.environ.items() if name not in names}
    program = f"""
import os, dct_augment
print(*(os.environ.get(name) for name in {names}[:2]))
import huggingface_hub.constants
print(huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY)
import flows
print(*(os.environ.get(name) for name in {names}[2:]))
"""
    done = subprocess.run([sys.executable, "-c", program], env=unset, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["1 1", "True", "false 0"]


def test_onnx_runtime_keeps_no_number_of_this_machine() -> None:
    """Its telemetry complains where it cannot write one: in a home that is not there."""
    pytest.importorskip("onnxruntime")
    homeless = {"HOME": "/proc/none", "PATH": os.environ["PATH"]}

    def said(program: str) -> str:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=homeless, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    assert "elemetry" in said("import onnxruntime")
    assert "elemetry" not in said("import dct_augment, onnxruntime")
