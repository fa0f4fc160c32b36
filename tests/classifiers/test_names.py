"""Names of classifiers: what they mean, and what makes no sense."""

import json
from pathlib import Path

import pytest

from dct_augment import pocket
from dct_augment.classifiers.names import library_of, resolve
from dct_augment.errors import ModelError


@pytest.mark.parametrize(
    ("name", "library", "kind", "location", "timm_name"),
    [
        ("resnet50.a1_in1k", "timm", "timm", "resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("hf-hub:owner/net", "timm", "hub", "owner/net", "hf-hub:owner/net"),
        ("hf_hub:owner/net", "timm", "hub", "owner/net", "hf-hub:owner/net"),
        ("local-dir:/models/net", "timm", "folder", "/models/net", "local-dir:/models/net"),
        ("owner/net", None, "hub", "owner/net", "hf-hub:owner/net"),
        ("/models/net", None, "folder", "/models/net", "local-dir:/models/net"),
        ("./net", None, "folder", "net", "local-dir:net"),
    ],
)
def test_a_name_says_where_its_model_is(
    name: str, library: str | None, kind: str, location: str, timm_name: str
) -> None:
    resolved = resolve(name)
    assert (resolved.library, resolved.kind, resolved.location) == (library, kind, location)
    assert resolved.timm_name == timm_name
    assert resolved.is_local == (kind == "folder")


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/net").location == resolve("local-dir:~/net").location == str(tmp_path / "net")


def test_a_folder_is_taken_before_an_id_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "net").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/net").kind == "folder"
    assert resolve("owner/other").kind == "hub"


def test_pockets_classifiers_are_folders_of_timm() -> None:
    name = next(iter(pocket.CLASSIFIERS))
    resolved = resolve(f"pocket/{name}")
    assert (resolved.kind, resolved.library, resolved.is_local) == ("pocket", "timm", True)
    assert resolved.timm_name == f"local-dir:{pocket.path(name)}"


def test_the_library_can_be_said() -> None:
    assert resolve("my_guide:build", "function").kind == "function"
    assert resolve("resnet", "transformers").kind == "hub"
    assert resolve("owner/net", "timm").library == "timm"


def test_a_repository_on_the_hub_belongs_to_the_owner_or_to_timm() -> None:
    assert resolve("owner/net").repository == "owner/net"
    assert resolve("resnet50.a1_in1k").repository == "timm/resnet50.a1_in1k"


def test_a_function_must_be_said_to_be_one() -> None:
    with pytest.raises(ModelError, match="say so with library: function"):
        resolve("my_guide:build")


@pytest.mark.parametrize(
    ("settings", "library"), [({"architecture": "x"}, "timm"), ({"model_type": "vit"}, "transformers")]
)
def test_a_folders_config_says_whose_it_is(tmp_path: Path, settings: dict[str, str], library: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert library_of(resolve(str(tmp_path))) == library


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no classifier in .*: it has no config\.json\..*`dct-augment fit --config"):
        library_of(resolve(str(tmp_path)))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json there cannot be read: .*Write it again"):
        library_of(resolve(str(tmp_path)))
