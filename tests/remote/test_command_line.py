"""The commands with URLs: what is wrong with a store is one message and exit code 2, and nothing is half written."""

import shutil
from pathlib import Path

import pytest
import s3fs

from dct_augment.remote import urls
from tests.conftest import speckled
from tests.export.finished_runs import finish
from tests.remote.machines import Machines, stored
from tests.robustness.command_line import CommandLine
from tests.s3_server import S3Server


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], s3: S3Server, machines: Machines
) -> CommandLine:
    machines.be("one")
    return CommandLine(monkeypatch, capsys)


TRAIN = ["train", "--classes", "crane", "--output"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            [*TRAIN, "s3://no-such-bucket/run"],
            "s3://no-such-bucket/run: there is no such bucket; create it, or correct",
        ),
        ([*TRAIN, "s3://"], "output: s3:// names no place there; give s3://BUCKET/FOLDER"),
        ([*TRAIN, "az://bucket/run"], "output: az:// is no store that is known; give s3://, gs://, hf://"),
        (["verify", "--output", "s3://bucket/nothing-here"], "s3://bucket/nothing-here does not exist; make it with"),
        (
            ["export", "s3://bucket/nothing-here", "--to", "out"],
            "s3://bucket/nothing-here: nothing is there; correct the URL",
        ),
        (["export", "s3://no-such-bucket/run", "--to", "out"], "there is no such bucket"),
        (["predict", "s3://bucket/nothing-here", "."], "s3://bucket/nothing-here: nothing is there; correct"),
        (
            ["data", "-s", "dataset={name: folder, path: 's3://bucket/nothing-here'}"],
            "s3://bucket/nothing-here: nothing is there that could be read",
        ),
    ],
)
def test_what_is_wrong_is_one_message(
    call: CommandLine, command: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    speckled(0, 0).save(tmp_path / "picture.png")
    outcome = call(*command)
    assert message in outcome.said
    assert outcome.code == 2
    assert not (tmp_path / "out").exists()
    assert stored("s3://bucket/nothing-here") == {}


def test_without_credentials_a_run_ends_before_its_work(call: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    outcome = call(*TRAIN, "s3://bucket/run")
    assert "s3://bucket/run: there are no credentials" in outcome.said
    assert outcome.code == 2


def test_an_export_of_a_run_on_a_store_to_a_store(call: CommandLine, s3: S3Server, tmp_path: Path) -> None:
    url, to = s3.new_url("birds"), s3.new_url("exported")
    shutil.copytree(finish(tmp_path / "run"), urls.mirror(url))
    Machines.publish(url)
    shutil.rmtree(urls.mirror(url))
    outcome = call("export", url, "--format", "webdataset", "--to", to)
    assert (outcome.code, f"9 images of 3 classes in {to}, format webdataset" in outcome.said) == (0, True), outcome
    assert "train-000000.tar" in stored(to)
    outcome = call("export", url, "--to", to, "--push", "user/birds")
    assert (outcome.code, "--push uploads a folder of this machine" in outcome.said) == (2, True)
