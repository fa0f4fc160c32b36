"""What a run takes of memory is known before it starts."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dct_augment import config
from dct_augment.cli.commands import app
from dct_augment.diffusion import memory as budget
from dct_augment.pipeline.doctor import machine
from dct_augment.pipeline.memory_needs import model_needs
from tests import tiny

GB = 10**9
_SHORT = (
    *("tokens.max_updates=2", "tokens.restarts=0", "tokens.certificate_images=2", "tokens.certificate_looks=1"),
    *("generation.per_class=2", "dataset.classes=[kiwi]", "runner.processes=1"),
)


def test_a_model_takes_more_in_larger_batches_and_less_with_recomputation():
    folder = tiny.pipeline_folder("xl")

    def needs(*settings: str):
        found = model_needs(config.load("pocket", [f"model.path={folder}", *settings]), "cpu", 20 * GB)
        assert found is not None
        return found

    few, many = needs("tokens.images_per_update=1"), needs("tokens.images_per_update=4")
    assert few.weights == many.weights
    assert few.update < many.update
    assert needs("tokens.images_per_update=4", "model.memory=fast").update > many.update
    more_passes = needs("tokens.images_per_update=4", "tokens.method={name: last_k, steps: 3}")
    assert more_passes.update > many.update
    assert needs("generation.batch_size=1", "tokens.validation_images=1").generate < needs().generate
    assert many.tokens == many.weights + max(many.update, many.generate)
    assert model_needs(config.load("pocket", []), "cpu", 20 * GB).weights > needs().weights - 10**6  # its classifiers


def test_where_little_is_free_the_model_is_counted_as_it_would_be_used():
    settings = [f"model.path={tiny.pipeline_folder()}"]
    low = model_needs(config.load("pocket", [*settings, "model.memory=low"]), "cpu", 10)
    assert low is not None
    assert model_needs(config.load("pocket", settings), "cpu", 10) == low


def test_models_that_are_not_here_or_not_whole_are_not_known(tmp_path: Path):
    assert model_needs(config.load("cub", []), "cuda", 20 * GB) is None
    folder = Path(shutil.copytree(tiny.pipeline_folder(), tmp_path / "model"))
    (folder / "unet" / "config.json").write_text("{", encoding="utf-8")
    assert model_needs(config.load("pocket", [f"model.path={folder}"]), "cpu", 20 * GB) is None
    assert machine.memory(config.load("pocket", [f"model.path={folder}"])).state == "ok"


def test_what_does_not_fit_is_said_before_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(machine, "free_bytes", lambda _: GB)
    finding = machine.memory(config.load("pocket", []))
    assert finding.state == "missing"
    assert "1 GB of memory free" in finding.detail
    assert "model.memory=low" in finding.fix
    monkeypatch.setattr(budget, "free_bytes", lambda _: GB)
    shown = CliRunner().invoke(app, ["generate", "--dry-run", "-o", str(tmp_path / "run"), "--classes", "kiwi"]).output
    assert "too little memory for tokens, class-token images: set model.memory=low" in shown


@pytest.mark.slow
def test_a_run_takes_what_was_said(tmp_path: Path):
    settings = config.load("pocket", _SHORT)
    needs = model_needs(settings, "cpu", 20 * GB)
    script = """
import sys
from dct_augment import config
from dct_augment.pipeline.run import Run
Run(config.load("pocket", sys.argv[2:], output=sys.argv[1])).generate()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))  # not the parent's
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run"), *_SHORT], capture_output=True, text=True, check=True
    )
    assert needs is not None
    assert needs.tokens / 1.5 < 1024 * int(done.stdout.splitlines()[-1]) < 1.5 * needs.tokens
