"""Bad inputs of every kind: each ends a command with exit code 2 and one message that names what is wrong."""

import re
from pathlib import Path

import pytest

from dct_augment import config
from tests.conftest import make_run
from tests.robustness import artefacts, configurations, pictures
from tests.robustness.case import Case
from tests.robustness.command_line import CommandLine

GROUPS = {
    "configuration": configurations.FILES,
    "setting": configurations.SETTINGS,
    "option": configurations.OPTIONS,
    "folder": pictures.FOLDERS,
    "table": pictures.TABLES,
    "tar": pictures.TARS,
    "annotation": pictures.ANNOTATIONS,
    "token": artefacts.TOKENS,
    "plan": artefacts.PLANS,
    "shard": artefacts.SHARDS,
    "classifier": artefacts.CLASSIFIERS,
}
CASES = {f"{group}: {name}": case for group, cases in GROUPS.items() for name, case in cases.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_input_is_exit_code_2_and_one_message(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    case.write(tmp_path)
    outcome = CommandLine(monkeypatch, capsys)(*case.command)
    assert outcome.code == 2, outcome.said
    assert case.said in outcome.said
    assert re.search(r"Traceback|errno|unicode string|Error\(|<class|object at 0x", outcome.said, re.IGNORECASE) is None
    assert len(outcome.said) < 20_000


def test_what_the_bad_configurations_have_in_common_is_good(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("\n".join(configurations.GOOD.values()))
    assert config.load(str(tmp_path / "good.yaml")).name == "x"


def test_there_are_at_least_200_bad_inputs() -> None:
    assert len(CASES) >= 200


def test_verify_takes_the_configuration_that_a_run_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run").draw()
    (tmp_path / "run" / "config.yaml").write_text("name: tiny\ndataset: {name: digits}\nguide: {name: pocket/x}\n")
    outcome = CommandLine(monkeypatch, capsys)("verify", "--output", "run")
    assert (outcome.code, outcome.said) == (0, "4 shards, 15 images, 3 tokens: all agree")
