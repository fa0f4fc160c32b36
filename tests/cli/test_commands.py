"""The command line as a user meets it: in its own process, and only what needs no model."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from dct_augment import __version__, tables
from dct_augment.cli import commands, common, plan
from dct_augment.cli.commands import app
from dct_augment.cli.common import bars, print_table
from dct_augment.config import Config
from dct_augment.errors import InputError, UntrainedClassesError
from dct_augment.pipeline.run import Run
from dct_augment.records import Progress
from dct_augment.tokens import formats
from tests.conftest import ShardRun
from tests.processes import Program
from tests.robustness.pictures import png

Call = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = {"torch", "diffusers", "transformers", "timm", "pandas", "prefect", "webdataset"}
HELP = """
import sys
sys.argv = ["dct-augment", *{arguments}]
from dct_augment.cli import main
try:
    main()
except SystemExit:
    pass
"""


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Runs `dct-augment` in an empty folder, without colours and with wide lines."""
    environment = os.environ | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dct_augment", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    return run


@pytest.fixture
def finished(made: ShardRun) -> tuple[ShardRun, tuple[str, ...]]:
    """A finished run, and the options that point a command at it."""
    path = made.root / "tiny.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "dataset": {"name": "pocket"}, "guide": {"name": "x"}}))
    return made, ("--config", str(path), "--output", str(made.root))


def forked(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """Run a command that loads torch; the exit code and all that it prints."""
    variables = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}
    return Program.start(folder, "dct_augment", *arguments, environment=variables).end()


def loaded_by(code: str) -> set[str]:
    """The heavy packages that a piece of code imports."""
    report = "\nprint('LOADED', *{name.partition('.')[0] for name in __import__('sys').modules})"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split()) & HEAVY


def test_importing_the_package_imports_nothing_heavy() -> None:
    light = ("config", "generation.plan", "pipeline", "pipeline.first_config.composing", "pipeline.protocol", "records")
    assert loaded_by("".join(f"import dct_augment.{name}\n" for name in light)) == set()


@pytest.mark.slow
def test_what_loads_no_text_to_image_model_imports_neither_diffusers_nor_transformers() -> None:
    assert loaded_by("import dct_augment.pipeline.run").isdisjoint({"diffusers", "transformers"})


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["init", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(HELP.format(arguments=arguments)) == set()


def test_help_names_every_command(call: Call) -> None:
    shown = call("--help")
    assert shown.returncode == 0
    for command in ("init", "demo", "train", "generate", "benchmark", "report", "run", "verify", "export"):
        assert f" {command} " in shown.stdout


def test_version(call: Call) -> None:
    assert call("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "--config", "pockt"], "did you mean 'pocket'"),
        (["generate", "--config", "gone.yaml"], "gone.yaml"),
        (["train", "--set", "tokens.max_update=3"], "did you mean 'max_updates'"),
        (["train", "--set", "nonsense"], "section.key=value"),
        (["generate", "--per-class", "0"], "generation.per_class"),
        (["generate", "--config", "/proc/self/mem"], "it cannot be read: Input/output error"),
        (["run", "--classes", ""], "--classes is given as '', an empty text"),
        (["train", "--classes", " ,"], "--classes ' ,' names no class"),
        (["export", "--to", "out", "--classes", ""], "--classes is given as '', an empty text"),
        (["verify"], "runs/pocket does not exist; make it with `dct-augment generate --config pocket`"),
        (["verify", "-o", "my run"], "with `dct-augment generate --config pocket --output 'my run'`"),
        (["export", "a", "--to", "out", "--set", "name=x"], "not both"),
        (["export", "a", "--to", "out", "-c", "pocket"], "not both"),
        (["export", "--to", "out"], "runs/pocket does not exist"),
        (["export", "gone", "--to", "out"], "gone does not exist"),
        (["export", "a", "--to", "out", "--output", "b"], "not both"),
        (["export", "a", "--to", "out", "--config", "pocket"], "not both"),
        (["export", "--to", "out", "--format", "tar"], "'tar' is unknown; choose one of: imagefolder"),
        (["export", "--to", "out", "--filter", "0.5", "--no-filter"], "not both"),
        (["export", "--to", "out", "--private"], "--private is for --push"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_message_and_exit_code_2(call: Call, arguments: list[str], said: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [["--nonsense"], ["generate", "--nonsense"], ["nonsense"], ["generate", "--per-class=many"]],
    ids=" ".join,
)
def test_what_the_command_line_does_not_know_is_exit_code_2(call: Call, arguments: list[str]) -> None:
    done = call(*arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert arguments[-1].partition("=")[0] in done.stderr


@pytest.mark.slow
def test_an_unknown_class_is_refused_before_any_work(tmp_path: Path) -> None:
    code, printed = forked(tmp_path, "generate", "--classes", "crane,dodo")
    assert (code, "Traceback" in printed) == (2, False)
    assert "'dodo'" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_verify_of_a_good_run(finished: tuple[ShardRun, tuple[str, ...]], tmp_path: Path) -> None:
    assert forked(tmp_path, "verify", *finished[1]) == (0, "6 shards, 21 images, 3 tokens: all agree\n")


@pytest.mark.slow
def test_verify_of_a_damaged_run_is_exit_code_1(finished: tuple[ShardRun, tuple[str, ...]], tmp_path: Path) -> None:
    (finished[0].root / "shards" / "tiny-train-000000.tar").unlink()
    code, printed = forked(tmp_path, "verify", *finished[1])
    assert (code, "Traceback" in printed) == (1, False)
    assert "tiny-train-000000.tar: missing" in printed


def test_export_says_how_many_images_of_how_many_classes(
    call: Call, finished: tuple[ShardRun, tuple[str, ...]], tmp_path: Path
) -> None:
    done = call("export", *finished[1], "--to", "out", "--format", "csv", "--classes", "crane,gull")
    assert (done.returncode, done.stdout) == (0, "10 images of 2 classes in out, format csv\n")
    assert (tmp_path / "out" / "labels.csv").is_file()


def test_export_loads_no_torch(finished: tuple[ShardRun, tuple[str, ...]], tmp_path: Path) -> None:
    arguments = ["export", str(finished[0].root), "--to", str(tmp_path / "out")]
    assert loaded_by(HELP.format(arguments=arguments)) == {"pandas"}
    assert (tmp_path / "out" / "README.md").is_file()


@pytest.mark.slow
def test_a_file_in_place_of_a_run_folder_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    code, printed = forked(tmp_path, "generate", "--output", "README.md")
    assert (code, "Traceback" in printed, "Errno" in printed) == (2, False, False)
    said = "error: 'README.md': File exists; it is in the way of a folder; move it away, or give another path"
    assert said in printed
    assert (tmp_path / "README.md").read_text() == "mine"


def test_names_that_look_like_markup_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("class", title="of runs/[a]")
    table.add_row("bolt [m6] [/x]")
    print_table(table)
    assert "bolt [m6] [/x]" in (shown := capsys.readouterr().out)
    assert "of runs/[a]" in shown
    with bars() as report:
        report(Progress("tokens", 1, 2, "bolt [m6] [/x]"))


def test_a_table_in_a_pipe_is_as_wide_as_its_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = Table("class", "verdict", "stopped")
    table.add_row("crane " * 20, "certified", "validation accuracy " * 10)
    print_table(table)
    assert f"{'crane ' * 19}crane" in (shown := capsys.readouterr().out)
    assert f"{'validation accuracy ' * 9}validation accuracy" in shown


def test_progress_shows_its_counts_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    terminal = Console(file=file, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(common, "console", terminal)
    with bars() as report:
        report(Progress("a stage with a name that is rather long", 1234, 56789, "crane, update 12 of 160, and so on"))
    lines = [line for line in file.getvalue().splitlines() if "a stage" in line]
    assert len(lines) == 2
    assert all("/56789 " in line for line in lines)
    assert " 1234/56789 " in lines[-1]
    assert "crane" in lines[-1]


def test_a_log_gets_a_line_for_each_quarter_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(common, "console", Console(file=file, width=80, force_terminal=False, color_system=None))
    with bars() as report:
        for done in (1, 99, 100, 101, 250, 399, 400, 400):
            report(Progress("tokens", done, 400, "crane"))
        assert file.getvalue().splitlines() == [
            "tokens: 100 of 400",
            "tokens: 250 of 400",
            "tokens: 399 of 400",
            "tokens: 400 of 400",
        ]


def test_a_class_without_a_token_is_said_with_the_command_that_trains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--config", "digits", "--set", "tokens.seed=3", "--output", "my run"]
    done = CliRunner().invoke(app, ["tokens", "show", "seven", *options])
    assert str(done.exception) == (
        "class 'seven' has no token in my run/tokens; make it with `dct-augment train --config digits --set "
        "tokens.seed=3 --output 'my run'`"
    )
    done = CliRunner().invoke(app, ["tokens", "show", "sevn", *options])
    assert "'sevn' (did you mean 'seven'?)" in str(done.exception)


def test_tokens_of_a_run_are_compared_by_class_with_files(
    finished: tuple[ShardRun, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, options = finished
    formats.save({"a": torch.tensor([1.0, 0.0])}, run.root / "tokens" / "crane.safetensors", {"token": "a"})
    formats.save({"b": torch.tensor([1.0, 1.0])}, run.root / "other.safetensors", {"token": "b"})
    done = CliRunner().invoke(app, ["tokens", "compare", "crane", str(run.root / "other.safetensors"), *options])
    assert "a, b" in done.stdout, done.exception
    assert "0.707" in done.stdout


def test_damaged_tokens_of_a_run_are_named_with_the_command_that_mends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--config", "digits", "--output", "mine"]
    done = CliRunner().invoke(app, ["tokens", "list", *options])
    assert str(done.exception).startswith("there are no tokens in mine/tokens; make them with `dct-augment train ")
    formats.save({"a": torch.tensor([1.0, 0.0])}, Path("mine/tokens/one.safetensors"), {"token": "a"})
    whole = Path("mine/tokens/one.safetensors").read_bytes()
    Path("mine/tokens/two.safetensors").write_bytes(whole[:20])
    Path("mine/tokens/three.safetensors").mkdir()
    message = (
        "damaged or lost: mine/tokens/two.safetensors, mine/tokens/three.safetensors. `dct-augment verify --repair "
        "--output mine` trains it again"
    )
    for words in (["list"], ["export", "--to", "there"], ["show", "two,three"]):
        done = CliRunner().invoke(app, ["tokens", *words, *options])
        assert str(done.exception) == message
        assert ("<a>" in done.stdout or " a " in done.stdout) == (words == ["list"])
    assert not Path("there").exists()


def test_tokens_that_are_swapped_or_lost_are_named(finished: tuple[ShardRun, tuple[str, ...]], tmp_path: Path) -> None:
    run, options = finished
    tokens = run.root / "tokens"
    first = tokens / "crane.safetensors"
    formats.save({"a": torch.tensor([1.0, 0.0])}, first, {"token": "a", "slug": "kiwi"})
    for words in (["list"], ["export", "--to", str(tmp_path / "there")]):
        done = CliRunner().invoke(app, ["tokens", *words, *options])
        assert str(done.exception).startswith(f"damaged or lost: {first}. `dct-augment verify --repair")
    first.unlink()
    tables.write(tokens / "index.parquet", pd.DataFrame({"slug": ["crane"], "class": ["crane"]}))
    for link in (False, True):
        if link:
            first.symlink_to(first.name)
        done = CliRunner().invoke(app, ["tokens", "list", *options])
        assert str(done.exception).startswith(f"damaged or lost: {first}. `")
    assert not (tmp_path / "there").exists()


def test_a_report_of_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", "--output", str(tmp_path / "nope")])
    assert "nope does not exist, so there is nothing to report; make it with `dct-augment run" in str(done.exception)
    assert not (tmp_path / "nope").exists()


def test_a_run_in_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    outer = tmp_path / "run"
    (outer / "tokens").mkdir(parents=True)
    for name in ("config.yaml", "times.json"):
        (outer / name).write_text("{}")
    for verb in ("report", "generate", "verify"):
        done = CliRunner().invoke(app, [verb, "--config", "pocket", "--output", str(outer / "tokens")])
        assert str(done.exception).startswith(f"{outer / 'tokens'} lies in the run {outer}; give that, or a folder")
    assert sorted(path.name for path in outer.rglob("*")) == ["config.yaml", "times.json", "tokens"]


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(settings: Config, report: object) -> None:
        raise AssertionError("a run was made")

    monkeypatch.setattr("dct_augment.pipeline.run.Run", load)
    (tmp_path / "file").write_text("mine")
    for command in ("train", "generate", "benchmark", "fit", "report", "run"):
        for folder, error in ((tmp_path / "file", FileExistsError), (Path("/proc/run"), PermissionError)):
            assert isinstance(CliRunner().invoke(app, [command, "--output", str(folder)]).exception, error)


def test_the_doctor_shows_the_extras_of_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    done = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1"}).invoke(
        app, ["doctor", "--set", "metrics.features=inception"]
    )
    assert "pip install 'dct-augment[inception]'" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_a_run_in_which_a_class_got_no_token_prints_its_report_and_then_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ending(config: str, per_class: object, settings: Config, *rest: object) -> str:
        """Do what the flow does at its end, without Prefect."""
        Run(settings).report()
        raise UntrainedClassesError("no class token for 1 of 2 classes")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_flow", ending)
    done = CliRunner().invoke(app, ["run", "--classes", "crane,kiwi"])
    assert isinstance(done.exception, UntrainedClassesError)
    assert "report: runs/pocket/report/index.html" in done.stdout
    assert "judge and test" in done.stdout


def test_a_piped_doctor_prints_lines_that_can_be_read() -> None:
    done = CliRunner(env={"NO_COLOR": "1"}).invoke(app, ["doctor", "--set", "guide.name=pocket/nothing"])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("missing  guide: "))
    assert lines[place + 1] == "         -> correct the name"
    assert "│" not in done.stdout


def test_a_price_needs_a_plan(call: Call) -> None:
    result = call("train", "--price", "2.5")
    assert result.returncode == 2
    assert "add --dry-run" in result.stderr


def test_a_short_part_of_a_plan_takes_a_second_not_none() -> None:
    assert plan._cost(0.2, None) == ["1"]
    assert plan._cost(0.0, None) == ["0"]
    assert plan._cost(1800.2, 2.5) == ["1,801", "1.25"]
    assert plan._cost(float("nan"), 2.5) == ["-", "-"]


@pytest.mark.parametrize("price", ["nan", "inf", "-1"])
def test_a_price_is_a_number_from_0(call: Call, price: str) -> None:
    assert call("train", "--dry-run", "--price", price).returncode == 2


def test_the_plan_says_what_each_part_costs_and_what_room_its_images_take(call: Call) -> None:
    result = call("generate", "--classes", "crane", "--per-class", "7", "--dry-run", "--price", "3600")
    assert result.returncode == 0, result.stderr
    assert "at 3600 an hour" in result.stdout
    (total,) = [line.split("│") for line in result.stdout.splitlines() if "total" in line]
    price, seconds = (float(total[place].replace(",", "")) for place in (-2, -3))
    assert -0.01 < seconds - price < 1.01  # at 3600 an hour a second costs 1; seconds are rounded up
    assert "disk: about 70 kB for 7 images; " in result.stdout


@pytest.mark.parametrize("given", [("benchmark",), ("run", "--per-class", "6")])
def test_the_plan_refuses_what_the_command_refuses(call: Call, given: tuple[str, ...]) -> None:
    words = *given, "--set", "benchmark.per_class=1000", "--classes", "crane,kiwi"
    plan, command = call(*words, "--dry-run"), call(*words)
    assert "benchmark.per_class asks for 1,000 synthetic images of a class" in plan.stderr
    assert (plan.returncode, plan.stderr.splitlines()[-1]) == (command.returncode, command.stderr.splitlines()[-1])
    assert plan.returncode == 2


def test_nothing_else_is_written_where_a_run_keeps_its_own(
    finished: tuple[ShardRun, tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "other-run"
    (root / "tokens").mkdir(parents=True)
    for name in ("config.yaml", "times.json"):
        (root / name).write_text("")
    (root / "a.png").write_bytes(png(0))
    monkeypatch.chdir(root)
    own = "is the run's own, of '.*run', which nothing else may write to; give another path"
    for path in ("tokens", "tokens/new", "../other-run/shards", "report/classes.csv", "config.yaml", "arms/x/y"):
        with pytest.raises(InputError, match=own):
            common.refuse_part_of_run(Path(path), "--to")
    for path in (".", "exported", "../tokens", "predictions.csv"):
        common.refuse_part_of_run(Path(path), "--to")
    _, options = finished
    for words in (
        ["tokens", "export", "--to", "tokens", *options],
        ["export", "--to", "report/more", *options],
        ["predict", "pocket/birds-guide", "a.png", "--csv", "report/classes.csv"],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2 or isinstance(result.exception, InputError), (words, result.output)
        assert "is the run's own" in " ".join(f"{result.exception} {result.output}".split()), words
    assert sorted(path.name for path in root.iterdir()) == ["a.png", "config.yaml", "times.json", "tokens"]
