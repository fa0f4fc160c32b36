"""`verify` raises no false alarm, and a class without any image is an error."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dct_augment import config, files, tables
from dct_augment.config import Config
from dct_augment.errors import InputError, MissingImagesError, StaleRunError
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.verify import verify
from dct_augment.tokens import formats
from tests.docs_run import SMALL
from tests.test_files import HOLDER

pytestmark = pytest.mark.slow


@pytest.fixture
def generated(prepared_run: Path, tmp_path: Path) -> Config:
    """The settings of a run with tokens and images alone."""
    shutil.copytree(prepared_run / "runs" / "pocket", tmp_path / "run")
    return config.load("pocket", SMALL, classes=["crane", "kiwi"], per_class=4, output=tmp_path / "run", device="cpu")


def said(settings: Config) -> list[str]:
    return [str(problem) for problem in verify(settings.root, settings.name, settings).problems]


def test_a_run_that_has_generated_or_only_trained_has_no_problem(generated: Config) -> None:
    assert said(generated) == []
    for path in generated.root.iterdir():
        if path.name not in ("config.yaml", "tokens", "checks"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert said(generated) == []


def test_what_a_command_at_work_has_not_finished_is_no_problem_but_damage_is(generated: Config) -> None:
    root = generated.root
    (parquet,) = sorted(root.glob("shards/*-000000.parquet"))
    parquet.unlink()
    (root / "tokens" / "index.parquet").unlink()
    assert len(said(generated)) == 2
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(root)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        at_work = verify(root, generated.name, generated)
        assert (at_work.problems, at_work.at_work) == ((), True)
        (root / "checks" / "guide.json").write_text("{")
        damaged = said(generated)
        process.kill()
    assert damaged == ["checks/guide.json: damaged: it is no JSON, at line 1, column 2"]


def test_every_byte_of_a_table_is_guarded(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "t.parquet"
    tables.write(path, pd.DataFrame({"key": ["a", "b"], "rank": [1, 2]}))
    written = path.read_bytes()
    for place in range(len(written)):
        path.write_bytes(written[:place] + bytes([written[place] ^ 1]) + written[place + 1 :])
        assert not tables.is_intact(path), place


def test_a_table_cannot_stand_for_another_and_those_of_older_versions_are_read(tmp_path: Path) -> None:
    import pandas as pd

    path, other = tmp_path / "t.parquet", tmp_path / "other.parquet"
    tables.write(path, pd.DataFrame({"key": ["a", "b"], "rank": [1, 2]}))
    data = path.read_bytes()
    other.write_bytes(data)
    assert (tables.is_intact(path), tables.is_intact(other)) == (True, False)
    place = tables._place_of_hash(data)
    unsigned = data[:place] + tables._UNSET + data[place + len(tables._UNSET) :]
    older = hashlib.sha256(unsigned).hexdigest().encode()  # without the name of the file
    other.write_bytes(data[:place] + older + data[place + len(older) :])
    assert tables.read(other) == tables.read(path)


def test_an_imported_token_that_is_damaged_is_not_replaced_by_a_trained_one(generated: Config) -> None:
    run = Run(generated)
    file = run.tokens.file(run.classes[0])
    run.import_tokens([(formats.read(file)[0], run.classes[0])], replace=True)
    file.write_bytes(file.read_bytes()[:-1])
    assert said(generated)[0].startswith("tokens/crane.safetensors: damaged, and it was imported: import it again")
    with pytest.raises(InputError, match=r"crane\.safetensors is damaged, and was imported: import it again"):
        Run(generated).train()


def test_an_import_with_other_settings_than_the_other_tokens_changes_nothing(generated: Config) -> None:
    other = config.override(generated, ["tokens.learning_rate=0.02"])
    run = Run(other)
    crane, before = run.tokens.file(run.classes[0]), files.hashes(generated.root / "tokens")
    with pytest.raises(StaleRunError, match=r"kiwi\.safetensors was trained with other settings"):
        run.import_tokens([(formats.read(crane)[0], run.classes[0])], replace=True)
    assert files.hashes(generated.root / "tokens") == before


@pytest.mark.parametrize("classes", [["crane", "kiwi"], ["bat"]])
@pytest.mark.parametrize(
    ("setting", "refused"),
    [
        ("tokens.learning_rate=0.02", r"(crane|kiwi)\.safetensors was trained with other settings"),
        ("generation.seed=5", r"train-000000\.tar was made with other settings"),
    ],
)
def test_a_command_that_other_settings_refuse_changes_nothing(
    generated: Config, classes: list[str], setting: str, refused: str
) -> None:
    other = config.load("pocket", [*SMALL, setting], classes=classes, output=generated.root, device="cpu")
    before = {path: path.read_bytes() for path in generated.root.rglob("*") if path.is_file()}
    run = Run(other)
    with pytest.raises(StaleRunError, match=refused):
        run.train() if setting.startswith("tokens") else run.generate()
    after = {path: path.read_bytes() for path in generated.root.rglob("*") if path.is_file()}
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    allowed = {"times.json"} if setting.startswith("tokens") else {"times.json", *added_by(classes)}
    assert changed <= allowed
    assert said(generated) == []


def added_by(classes: list[str]) -> set[str]:
    return {"bat.safetensors", "bat.failed.json", "index.parquet", "plan.json"} if classes == ["bat"] else set()


def test_a_class_without_any_image_is_an_error_that_names_it(generated: Config) -> None:
    run = Run(generated)
    run.check()
    shutil.rmtree(generated.root / "shards")
    crane = run.classes[0]
    token = run.tokens.read(crane)
    vector = {token.word: formats.flat(token.vector * 1e30)}
    formats.save(vector, run.tokens.file(crane), {**token.metadata})
    run = Run(generated)
    run.generate()
    with pytest.raises(MissingImagesError, match=r"not one image of 1 of 2 classes .* crane \(image is not finite\)"):
        run.check()
