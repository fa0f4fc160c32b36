"""`dct-augment init` as a user meets it."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dct_augment import config as configuration
from dct_augment import datasets
from dct_augment.cli.commands import app
from tests.pipeline.test_first_config import write_photos


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(command: str, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [command, *arguments])


def write_birds(root: Path, count: int) -> Path:
    """Write photos of four Pocket birds, the first of each."""
    birds = datasets.load("pocket")
    for example in birds.examples("train"):
        number = int(example.key[-4:])
        if example.label >= 12 and number < count:
            path = root / birds.classes[example.label].name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            example.open().save(path)
    return root


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone"], "gone' does not exist"),
        (["photos/gate/0.png"], "is a file. Give the folder"),
        (["empty"], "is empty. Put photos in one folder per class"),
        (["photos", "--to", "config"], "must end in .yaml"),
        (["photos", "--to", "photos/gate/0.png/x.yaml"], "is no folder that you may write to"),
        (["photos", "--to", "there.yaml"], "there.yaml' is there already"),
        (["photos", "--classes", "gate"], "holds one class only, 'gate'"),
        (["photos", "--classes", "gate,door"], "classes 'door' are not in 'photos'"),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(folder: Path, arguments: list[str], said: str) -> None:
    write_photos(folder / "photos", {"gate": 2, "petal": 2})
    (folder / "empty").mkdir()
    (folder / "there.yaml").write_text("mine\n")
    before = {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
    done = call("init", *arguments)
    assert done.exit_code != 0
    assert said in str(done.exception)
    assert getattr(done.exception, "exit_code", None) == 2
    assert {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")} == before


@pytest.mark.slow
def test_a_folder_of_birds_becomes_a_configuration_that_run_plans(folder: Path) -> None:
    write_birds(folder / "photos", 5)
    done = call("init", "photos")
    assert done.exit_code == 0, done.output
    for said in (
        "photos: one folder per class; 4 classes, 20 training photos, 5 each",
        "every photo can be read; no photo is there twice",
        "model: pocket: it knows all of these classes",
        "test: cross-validation in 5 folds",
        "work: 24 class tokens, 1,400 images, 30 trainings of the classifier; up to ",
        "cheaper: dct-augment init photos --quick --to photos-quick.yaml (",
        "written: photos.yaml",
        "next: dct-augment doctor --config photos.yaml, then dct-augment run --config photos.yaml",
    ):
        assert said in done.stdout
    assert {path.name for path in folder.iterdir()} == {"photos", "photos.yaml"}
    planned = call("run", "--config", "photos.yaml", "--dry-run", "--output", "out")
    assert planned.exit_code == 0, planned.output
    assert "tokens and images of 5 few-shot draws" in planned.stdout
    assert "30 trials of 400 steps" in planned.stdout
    evaluations = [int(row.split("│")[3].replace(",", "")) for row in planned.stdout.splitlines() if "│" in row]
    *parts, total = evaluations
    assert total == sum(parts)
    assert f"up to {total:,} denoiser evaluations" in done.stdout
    seconds = [row.split("│")[5].strip() for row in planned.stdout.splitlines() if "│" in row]
    assert all(float(value.replace(",", "")) > 0 for value in seconds)


@pytest.mark.slow
def test_without_a_gpu_the_time_of_a_large_model_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_photos(folder / "photos", {f"kind {number}": 3 for number in range(300)})
    done = call("init", "photos", "--to", "other.yaml", "--yes")
    assert done.exit_code == 0, done.output
    assert "300 classes, 900 training photos, 3 each" in done.stdout
    assert (
        "test: cross-validation in 3 folds ('kind 0', 'kind 1', 'kind 2' ... have no more photos), 2 times over"
        in done.stdout
    )
    assert "no GPU here, and Pocket cannot draw your classes" in done.stdout
    assert "work: 2,100 class tokens, 48,000 images, 36 trainings of the classifier; up to 50,760,000 " in done.stdout
    assert re.search(r"about [\d,]+ days here, without the trainings of mobilenetv3_small_100", done.stdout)
    assert "faster: a machine with a GPU; or --model stabilityai/sd-turbo, " in done.stdout
    assert "written: other.yaml and other-words.yaml" in done.stdout
    assert configuration.load("other.yaml").name == "other"


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "is_written"), [("n", False), ("y", True)])
def test_on_a_terminal_it_asks_before_it_writes(folder: Path, answer: str, is_written: bool) -> None:
    write_photos(folder / "photos", {"gate": 2, "petal": 2})
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "dct_augment", "init", "photos"]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        os.write(ours, f"{answer}\n".encode())
        output = process.communicate()[0].decode()
    os.close(ours)
    os.close(theirs)
    assert "write photos.yaml?" in output
    assert (folder / "photos.yaml").is_file() == is_written
    assert process.returncode == (0 if is_written else 1)


def test_without_a_stdin_nobody_is_asked(folder: Path) -> None:
    write_birds(folder / "photos", 2)
    command = [sys.executable, "-m", "dct_augment", "init", "photos", "--model", "pocket", "--to", "mine.yaml"]
    shell = ["sh", "-c", '"$@" <&-', "sh", *command]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "written: mine.yaml" in done.stdout
