"""Uploads: to a small Hub on this machine, by the Hub's own client in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.export.hub import SmallHub, serving

pytestmark = pytest.mark.slow

Upload = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[SmallHub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def upload(run: Path, tmp_path: Path, hub: SmallHub) -> Upload:
    """Runs `dct-augment export --push`; settings that are None are taken out of its environment."""
    given = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_made_up"}
    given |= {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE"))}

    def call(*arguments: str, **settings: str | None) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in (kept | given | settings).items() if value is not None}
        command = [sys.executable, "-m", "dct_augment", "export", str(run), "--to", str(tmp_path / "out"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    return call


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    return done.stderr.partition("error: ")[2]


def test_every_file_of_an_export_is_uploaded(upload: Upload, hub: SmallHub, tmp_path: Path) -> None:
    done = upload("--format", "huggingface", "--push", "user/birds", "--private")
    assert done.returncode == 0, done.stderr
    assert f"uploaded to {hub.endpoint}/datasets/user/birds" in done.stdout
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert hub.files["user/birds"] == {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in files
    }
    assert hub.private["user/birds"]
    assert hub.tokens == {"Bearer hf_made_up"}


def test_an_export_on_the_hub_is_replaced_as_a_whole_and_only_on_demand(
    upload: Upload, hub: SmallHub, tmp_path: Path
) -> None:
    assert upload("--push", "user/birds").returncode == 0
    before = dict(hub.files["user/birds"])
    refused = upload("--push", "user/birds", "--format", "parquet", "--to", str(tmp_path / "other"))
    assert refused.returncode == 2
    assert "this data set exists; give another name, or --overwrite to replace it" in said(refused)
    assert hub.files["user/birds"] == before
    done = upload("--push", "user/birds", "--format", "parquet", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert "train-00000-of-00001.parquet" in hub.files["user/birds"]
    assert not any(path.startswith("train/") for path in hub.files["user/birds"])
    assert not hub.private["user/birds"]


def test_a_data_set_that_no_export_made_is_never_replaced(upload: Upload, hub: SmallHub, tmp_path: Path) -> None:
    hub.files["user/mine"], hub.private["user/mine"] = {"mine.csv": b"mine"}, False
    done = upload("--push", "user/mine", "--overwrite")
    assert done.returncode == 2
    assert "this data set exists, and no export made it; give another name" in said(done)
    assert hub.files["user/mine"] == {"mine.csv": b"mine"}
    assert (tmp_path / "out" / "export.json").is_file()


@pytest.mark.parametrize(
    ("settings", "repository", "message"),
    [
        ({"HF_TOKEN": None}, "user/birds", "--push needs a token with write access; log in with `hf auth login`"),
        ({"HF_HUB_OFFLINE": "1"}, "user/birds", "HF_HUB_OFFLINE is set; unset it, or leave out --push"),
        ({}, "birds", "'birds' must be of the form user/name"),
        ({}, "user/my birds!", "is no name of a data set on the Hub"),
    ],
    ids=["no token", "offline", "no user", "no name"],
)
def test_an_upload_that_cannot_be_is_refused_before_any_work(
    upload: Upload, hub: SmallHub, tmp_path: Path, settings: dict[str, str | None], repository: str, message: str
) -> None:
    done = upload("--push", repository, **settings)
    assert done.returncode == 2
    assert message in said(done)
    assert not (tmp_path / "out").exists()
    assert hub.requests == []


@pytest.mark.parametrize(("status", "fix"), [(401, "log in with `hf auth login`"), (403, "write access")])
def test_a_refusal_of_the_hub_is_one_message_and_the_export_is_kept(
    upload: Upload, hub: SmallHub, tmp_path: Path, status: int, fix: str
) -> None:
    hub.answer = status
    done = upload("--push", "user/birds")
    assert done.returncode == 1
    message = said(done)
    assert f"the Hub answers {status}; " in message
    assert fix in message
    assert f"hf upload user/birds {tmp_path}/out . --repo-type dataset" in message
    assert (tmp_path / "out" / "export.json").is_file()


def test_a_hub_that_does_not_answer_is_one_message(upload: Upload) -> None:
    done = upload("--push", "user/birds", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "the Hub cannot be reached" in said(done)


def test_a_folder_with_more_files_than_the_hub_takes_is_refused(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dct_augment.errors import InputError
    from dct_augment.export import export_images, hub

    export_images(run, tmp_path / "out")
    monkeypatch.setattr(hub, "MOST_FILES_OF_A_FOLDER", 2)
    with pytest.raises(InputError, match=r"holds \d files, but the Hub takes 2 in a folder; use --format huggingface"):
        hub._check_export(tmp_path / "out")
    with pytest.raises(InputError, match="is no export"):
        hub._check_export(run)
