"""Every kind of file of a finished run, damaged or lost: `verify` names it, and it comes back byte for byte."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from dct_augment import config, files
from dct_augment.classifiers import kept
from dct_augment.config import Config
from dct_augment.datasets import load as load_dataset
from dct_augment.pipeline.repair import repair
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.verify import verify
from dct_augment.records import Progress
from tests import small as tests_small
from tests.processes import Program
from tests.robustness.command_line import CommandLine

pytestmark = pytest.mark.slow

SMALL = [
    "guide={name: few_shot, backbone: pocket/backbone, heads: 1, augmentations: 1}",
    "judge=pocket/digits-judge",
    "tokens.max_updates=1",
    "tokens.validate_every=1",
    "tokens.validation_images=1",
    "tokens.images_per_update=1",
    "tokens.certificate_images=2",
    "tokens.certificate_looks=1",
    "tokens.restarts=0",
    "tokens.plain_first=false",
    "tokens.target_accuracy=0.01",
    "tokens.target_probability=0.0",
    "tokens.learning_rate=4",
    "sampling.num_inference_steps=2",
    "generation.allow_uncertified=true",
    "generation.shard_size=2",
    "generation.per_class=2",
    "lora.steps=1",
    "downstream.image_size=32",
    "downstream.steps=1",
    "downstream.batch_size=2",
    "runner.processes=1",
    "benchmark.processes=1",
    "benchmark.protocol=cross_validation",
    "benchmark.folds=2",
    "benchmark.arms=[real, class_token_filtered, class_token_few_shot_guide, lora_plain_prompt]",
    "benchmark.filter_confidence=0.0",
    "benchmark.selection=coverage",
    "benchmark.candidates=1",
    "benchmark.per_class=2",
    "metrics.per_class=2",
    "metrics.bootstrap_resamples=20",
    "metrics.nearest_neighbours=1",
    "report.images_per_class=1",
]

_PHOTOS = 20
"""Photos of a class: enough for a guide that is not refused."""

TOKENS, ARM, LORA = "arms/tokens-*/*", "arms/class_token_few_shot_guide-*/*", "arms/lora-*/*"
BATCHES = {
    "lost": (
        "tokens/eight.safetensors",
        f"{TOKENS}/index.parquet",
        f"{TOKENS}/guide/heads.safetensors",
        f"{ARM}/config.yaml",
        f"{ARM}/shards/*-000000.parquet",
        "shards/*-000000.tar",
        "data/overview.json",
        "guide/*/few_shot.json",
        "checks/judge.json",
        "benchmark/trials/real-*.json",
        "benchmark/metrics/class_token_few_shot_guide.json",
        "benchmark/filter.parquet",
        "classifier/README.md",
        "report/classes.csv",
    ),
    "flipped": (
        "tokens/index.parquet",
        f"{TOKENS}/eight.safetensors",
        f"{LORA}/pytorch_lora_weights.safetensors",
        f"{ARM}/selection/*.parquet",
        f"{ARM}/shards/plan.json",
        "shards/*-000000.parquet",
        "data/pictures.parquet",
        "guide/*/heads.safetensors",
        "checks/judge.json",
        "benchmark/trials/class_token_filtered-*.npy",
        "benchmark/splits/*.parquet",
        "classifier/classifier.json",
        "report/summary.json",
        "times.json",
    ),
    "cut": (
        "tokens/plan.json",
        f"{TOKENS}/plan.json",
        f"{TOKENS}/guide/few_shot.json",
        f"{ARM}/shards/_info.json",
        f"{ARM}/shards/*-000001.tar",
        "shards/plan.json",
        "data/duplicates.parquet",
        "benchmark/trials/real-*.json",
        "benchmark/metrics.parquet",
        "classifier/model.safetensors",
        "report/index.html",
    ),
    "lost again": (
        "tokens/plan.json",
        f"{TOKENS}/eight.safetensors",
        f"{LORA}/pytorch_lora_weights.safetensors",
        "shards/plan.json",
        "data/unreadable.parquet",
        "guide/*/heads.safetensors",
        "benchmark/trials/class_token_filtered-*.npy",
        "benchmark/trials.parquet",
        "benchmark/splits/*.parquet",
        "classifier/config.json",
        "report/summary.json",
    ),
}
"""Files that are damaged together, one of each kind in a folder."""


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


HARMS: Mapping[str, Callable[[Path], object]] = {"flipped": _flip, "cut": _cut, "lost": Path.unlink}


class Finished:
    """A finished run, and what its files hold."""

    def __init__(self, settings: Config) -> None:
        self.settings, self.root = settings, settings.root
        self.before, self._times = self.contents(), (self.root / "times.json").read_bytes()

    def contents(self) -> dict[str, bytes]:
        """The bytes of all files but those of times, by path."""
        paths = [path for path in self.root.rglob("*") if path.is_file() and path.name not in (".lock", "times.json")]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in paths}

    def paths(self, patterns: tuple[str, ...]) -> list[Path]:
        """One file of each pattern."""
        return [sorted(self.root.glob(pattern))[0] for pattern in patterns]

    def problems(self) -> dict[str, str]:
        """What is wrong with each file, by its path."""
        found = verify(self.root, self.settings.name, self.settings).problems
        return {str(problem.shown): str(problem) for problem in found}

    def differences(self) -> list[str]:
        """The files that are not what they were."""
        after = self.contents()
        return sorted(name for name in {*self.before, *after} if self.before.get(name) != after.get(name))

    def restore(self) -> None:
        """Put everything back."""
        for name in self.differences():
            files.remove(self.root / name)
            if name in self.before:
                files.write_bytes(self.root / name, self.before[name])
        files.write_bytes(self.root / "times.json", self._times)


def make_settings(folder: Path) -> Config:
    """Write photos, and the settings of a run of them."""
    kept = {3: "three", 8: "eight"}
    counts = dict.fromkeys(kept, 0)
    for example in load_dataset(config.load("digits").dataset).examples("train"):
        if counts.get(example.label, _PHOTOS) < _PHOTOS:
            path = folder / "photos" / kept[example.label] / f"{counts[example.label]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            example.open().save(path)
            counts[example.label] += 1
    return config.load(
        "digits", [*SMALL, f"dataset={{name: folder, path: {folder / 'photos'}}}"], output=folder / "run"
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    settings = make_settings(tmp_path_factory.mktemp("damage"))
    Run(settings).run_all()
    return Finished(settings)


@pytest.fixture
def finished(made: Finished) -> Iterator[Finished]:
    yield made
    made.restore()


def remarks_of(settings: Config) -> tuple[Run, list[str]]:
    remarks: list[str] = []

    def note(progress: Progress) -> None:
        if not progress.total:
            remarks.append(progress.note)

    return Run(settings, note), remarks


def test_a_finished_run_has_no_problem(finished: Finished) -> None:
    assert finished.problems() == {}


def named_as(path: Path, harm: str) -> str:
    """Name what `verify` calls a damaged file: lost rows of a shard, or a lost order of images, have no name."""
    if harm == "lost" and path.parent.name == "shards" and path.suffix == ".parquet":
        return str(path.with_suffix(".tar"))
    return str(path.parent if harm == "lost" and path.parent.name == "selection" else path)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("batch", BATCHES)
def test_verify_names_every_damaged_file_and_no_other(finished: Finished, batch: str, harm: str) -> None:
    paths = [path for path in finished.paths(BATCHES[batch]) if (path.name, harm) != ("times.json", "lost")]
    for path in paths:
        HARMS[harm](path)
    expected = {named_as(path.relative_to(finished.root), harm) for path in paths}
    assert set(finished.problems()) == expected


@pytest.mark.parametrize("batch", ["lost", "flipped"])
def test_verify_repairs_every_file_to_the_same_bytes(
    finished: Finished, batch: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in finished.paths(BATCHES[batch]):
        HARMS[batch](path)
    line = CommandLine(monkeypatch, capsys)
    assert line("verify", "--output", str(finished.root)).code == 1
    outcome = line("verify", "--repair", "--output", str(finished.root))
    assert (outcome.code, finished.differences()) == (0, []), outcome.said
    assert "all agree" in outcome.said
    if batch == "flipped":
        assert f"removing {finished.root / 'tokens' / 'index.parquet'}" in outcome.said
    again = line("verify", "--output", str(finished.root))
    assert again.code == 0, again.said


@pytest.mark.timeout(300, method="thread")  # the others cannot end a library that waits
@pytest.mark.parametrize(
    ("batch", "put"), [("lost", Path.mkdir), ("flipped", os.mkfifo), ("cut", Path.mkdir), ("lost again", os.mkfifo)]
)
def test_verify_replaces_what_has_the_name_of_a_file_and_is_none(
    finished: Finished,
    batch: str,
    put: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An empty folder, or a pipe, for which whoever opens it waits."""
    paths = finished.paths(BATCHES[batch])
    for path in paths:
        path.unlink()
        put(path)
    assert len(finished.problems()) >= len(paths)
    outcome = CommandLine(monkeypatch, capsys)("verify", "--repair", "--output", str(finished.root))
    assert (outcome.code, finished.differences()) == (0, []), outcome.said


@pytest.mark.parametrize("batch", ["cut", "lost again"])
def test_the_next_run_makes_every_file_again_to_the_same_bytes_and_says_so(finished: Finished, batch: str) -> None:
    for path in finished.paths(BATCHES[batch]):
        HARMS[batch.split()[0]](path)
    run, remarks = remarks_of(finished.settings)
    run.run_all()
    assert finished.differences() == []
    told = "\n".join(remarks)
    for name in ("plan.json", "guide", ".json" if batch == "cut" else "eight.safetensors"):
        assert name in told, told
    assert "trained again" in told


def test_a_damaged_token_is_trained_again_beside_the_others_of_its_group(finished: Finished) -> None:
    token = finished.root / "tokens" / "three.safetensors"
    _flip(token)
    run, remarks = remarks_of(finished.settings)
    run.generate()
    assert finished.differences() == []
    assert f"{token} is damaged; the token is trained again beside those of eight" in remarks


@pytest.mark.parametrize("folder", ["shards", f"{ARM}/shards"])
@pytest.mark.parametrize("plan", ["lost", "cut"])
def test_a_plan_and_the_shards_that_only_it_names_come_back(
    finished: Finished, folder: str, plan: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = sorted(finished.root.glob(folder))[0]
    first, second = sorted(shards.glob("*.tar"))[:2]
    HARMS[plan](shards / "plan.json")
    first.with_suffix(".parquet").unlink()
    _flip(second)
    harmed = {str(path.relative_to(finished.root)) for path in (shards / "plan.json", first, second)}
    assert set(finished.problems()) == harmed
    outcome = CommandLine(monkeypatch, capsys)("verify", "--repair", "--output", str(finished.root))
    assert (outcome.code, finished.differences()) == (0, []), outcome.said
    assert f"plan.json is {'damaged' if plan == 'cut' else 'lost'}" in outcome.said


def test_the_next_run_brings_back_plan_shards_and_what_it_only_checks(finished: Finished) -> None:
    shards = finished.root / "shards"
    first, second = sorted(shards.glob("*.tar"))[:2]
    _cut(shards / "plan.json")
    first.with_suffix(".parquet").unlink()
    second.unlink()
    for name in ("config.yaml", "checks/judge.json", "benchmark/splits/*.parquet"):
        _flip(sorted(finished.root.glob(name))[0])
    run, remarks = remarks_of(finished.settings)
    run.run_all()
    assert finished.differences() == []
    for what in ("plan.json is damaged", "config.yaml is damaged", "judge.json is damaged", ".parquet is damaged"):
        assert any(what in remark for remark in remarks), (what, remarks)


def test_a_plan_that_nothing_tells_is_an_error_that_changes_nothing(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = finished.root / "shards"
    first, second = sorted(shards.glob("*.tar"))[:2]
    _cut(shards / "plan.json")
    first.with_suffix(".parquet").unlink()
    _flip(second)
    before = finished.contents()
    # With another size of shards, the settings say something else of those that are whole.
    words = ("--set", "generation.shard_size=3", "--output", str(finished.root))
    outcome = CommandLine(monkeypatch, capsys)("verify", "--repair", *words)
    assert outcome.code == 2, outcome.said
    assert "plan.json is damaged, and of shard 0, whose images only it names, there are no intact rows" in outcome.said
    assert finished.contents() == before


def test_a_damaged_configuration_is_not_repaired_by_itself_but_by_the_one_that_is_given(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = finished.root / "config.yaml"
    shutil.copy(recorded, tmp_path / "own.yaml")
    recorded.write_text(recorded.read_text().replace("learning_rate: 4.0", "learning_rate: 5.0"))
    line, output = CommandLine(monkeypatch, capsys), ("--output", str(finished.root))
    refused = line("verify", "--repair", *output)
    assert refused.code == 2
    assert f"{recorded} is damaged, and says how all else is made" in refused.said
    with_itself = line("verify", "--repair", "--config", str(recorded), *output)
    assert (with_itself.code, recorded.is_file()) == (2, True)
    recorded.unlink()
    without = line("verify", "--repair", *output)
    assert (without.code, recorded.exists()) == (2, False)
    assert f"{recorded} is missing, and says how all else is made" in without.said
    recorded.write_text("# sha256 of nothing\ntokens: {learning_rote: 1}\n")
    unreadable = line("verify", *output)
    assert unreadable.code == 2
    assert f"{recorded} is damaged: the run wrote something else there" in unreadable.said
    mended = line("verify", "--repair", "--config", str(tmp_path / "own.yaml"), *output)
    assert (mended.code, finished.differences()) == (0, []), mended.said


def test_lost_and_swapped_tokens_are_told_and_made_again(finished: Finished) -> None:
    tokens, settings = finished.root / "tokens", finished.settings
    three, eight = tokens / "three.safetensors", tokens / "eight.safetensors"
    swapped = three.read_bytes()
    three.write_bytes(eight.read_bytes())
    eight.write_bytes(swapped)
    said = [str(problem) for problem in verify(finished.root, settings.name, settings).problems]
    assert "tokens/three.safetensors: it is the token of 'eight'" in said
    shutil.rmtree(tokens)
    problems = verify(finished.root, settings.name, settings).problems
    assert any("images of 'three' were generated with a token that is missing" in str(each) for each in problems)
    run, _ = remarks_of(settings)
    repair(run, {problem.maker for problem in problems if problem.maker})
    assert finished.differences() == []


@pytest.mark.parametrize("folder", ["tokens", TOKENS])
def test_a_token_comes_back_with_the_company_that_nothing_records_any_more(finished: Finished, folder: str) -> None:
    (tokens, *_) = sorted(path for path in finished.root.glob(folder) if any(path.glob("eight.safetensors")))
    for name in ("plan.json", "index.parquet", "eight.safetensors"):
        (tokens / name).unlink()
    run, remarks = remarks_of(finished.settings)
    run.run_all()
    assert finished.differences() == [], remarks


@pytest.mark.parametrize("put", [lambda path: path.symlink_to(path.name), os.mkfifo, Path.mkdir])
def test_a_lock_that_is_no_file_is_a_problem_and_hides_no_other(
    finished: Finished,
    put: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lock = finished.root / ".lock"
    lock.unlink(missing_ok=True)
    put(lock)
    (finished.root / "tokens" / "eight.safetensors").unlink()
    try:
        assert set(finished.problems()) == {".lock", "tokens/eight.safetensors"}
        outcome = CommandLine(monkeypatch, capsys)("verify", "--repair", "--output", str(finished.root))
        assert outcome.code == 2
        assert f"{lock} is no file, and a run could not be kept from others by it; remove it" in outcome.said
    finally:
        files.remove(lock)


@pytest.mark.parametrize("lost", ["hashes.json", "model.safetensors"])
def test_a_guide_of_a_draw_that_is_not_whole_is_made_again_before_it_is_used(tmp_path: Path, lost: str) -> None:
    torch.set_num_threads(1)
    settings = [*tests_small.SMALL, "benchmark.arms=[real, class_token_few_shot_guide]", "benchmark.shots=2"]
    settings += ["metrics.features=null", "generation.shard_size=2"]
    loaded = config.load("digits", settings, classes=["one", "seven"], output=tmp_path / "run")
    Run(loaded).benchmark()
    whole = Finished(loaded)
    tokens = sorted(whole.root.glob("arms/tokens-*/*"))[0]
    _flip(tokens / "guide" / "model.safetensors")
    (tokens / "guide" / lost).unlink()
    (tokens / "one.safetensors").unlink()
    run, remarks = remarks_of(loaded)
    run.benchmark()
    assert whole.differences() == []
    assert any("guide" in remark and "the guide is made again" in remark for remark in remarks), remarks
    (tokens / "guide" / lost).unlink()  # all else is whole
    run, remarks = remarks_of(loaded)
    run.benchmark()
    assert whole.differences() == []
    assert any(f"{lost} is damaged or lost; it is made again" in remark for remark in remarks), remarks


def _swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_an_intact_file_in_the_place_of_another_is_found_and_made_again(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = finished.root
    first, second = sorted(root.glob(f"{TOKENS}/guide"))[:2]
    configurations = sorted(root.glob(f"{ARM}/config.yaml"))[:2]
    tokens = sorted(root.glob(f"{TOKENS}/eight.safetensors"))[:2]
    splits = sorted(root.glob("benchmark/splits/*.parquet"))[:2]
    trials, metrics = (sorted(root.glob(f"benchmark/{folder}/*.json"))[:2] for folder in ("trials", "metrics"))
    _swap(first, second)
    _swap(*trials)
    _swap(*metrics)
    _swap(*tokens)
    _swap(*configurations)
    _swap(*splits)
    _swap(root / "tokens" / "index.parquet", first.parent / "index.parquet")
    harmed = {first / "few_shot.json", second / "few_shot.json", *trials, *metrics, *configurations, *splits, *tokens}
    harmed |= {root / "tokens" / "index.parquet", first.parent / "index.parquet"}
    assert set(finished.problems()) >= {str(path.relative_to(root)) for path in harmed}
    line = CommandLine(monkeypatch, capsys)
    outcome = line("verify", "--repair", "--output", str(root))
    assert (outcome.code, finished.differences()) == (0, []), outcome.said


@pytest.mark.parametrize(
    "lost",
    [
        ("tokens", "benchmark/trials", "benchmark/trials.parquet"),
        ("arms",),
        ("arms/tokens-*/*", "benchmark"),
        (f"{ARM}/shards", "benchmark/metrics", "benchmark/metrics.parquet", "classifier"),
    ],
)
def test_whole_folders_that_are_lost_are_named_and_made_again(
    finished: Finished, lost: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = [path for pattern in lost for path in finished.root.glob(pattern)]
    for path in gone:
        files.remove(path)
    told = finished.problems()
    if "arms/tokens-*/*" in lost:
        images = {str(path.relative_to(finished.root)) for path in finished.root.glob(f"{ARM}/shards")}
        assert images <= {name for name, what in told.items() if "a token that is missing" in what}
    for path in gone:
        names = {str(path.relative_to(finished.root)), str(path.relative_to(finished.root) / "trials")}
        assert names & set(told) or "tokens-" in str(path) or path.suffix == ".parquet", (path, told)
    outcome = CommandLine(monkeypatch, capsys)("verify", "--repair", "--output", str(finished.root))
    assert (outcome.code, finished.differences()) == (0, []), outcome.said


@pytest.mark.parametrize(
    ("command", "folder"), [("benchmark", "benchmark"), ("fit", "classifier"), ("report", "report")]
)
def test_killed_at_its_writes_a_command_ends_with_the_same_bytes(finished: Finished, command: str, folder: str) -> None:
    """Trials, metrics, the kept classifier and the page; tokens and images are in tests/test_end_to_end.py."""
    root = finished.root
    words = (command, "--config", str(root / "config.yaml"), "--output", str(root))

    def harmed(how: str, number: int) -> tuple[int | None, str]:
        arguments = (how, str(number), str(root), *words)
        return Program.start(root.parent, "tests.soak.harmed", *arguments, environment={"OMP_NUM_THREADS": "1"}).end()

    files.remove(root / folder)
    code, printed = harmed("count", 0)
    assert code == 0, printed
    writes = int(printed.rpartition("writes: ")[2])
    files.remove(root / folder)
    killed = 0
    for number in sorted({1 + place * (writes - 1) // 6 for place in range(7)}):
        code, printed = harmed("kill", number)
        killed += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL), printed
    assert killed >= 4
    code, printed = harmed("count", 0)
    assert code == 0, printed
    changed = [name for name in finished.differences() if not name.startswith("report/")]  # it tells times
    assert changed == []
    assert finished.contents().keys() == finished.before.keys()
    assert finished.problems() == {}


def test_the_images_of_two_draws_in_each_others_place_are_found_and_made_again(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = sorted(finished.root.glob(ARM))[:2]
    _swap(first, second)
    told = finished.problems()
    assert {str(path.relative_to(finished.root) / "config.yaml") for path in (first, second)} <= set(told)
    outcome = CommandLine(monkeypatch, capsys)("verify", "--repair", "--output", str(finished.root))
    assert (outcome.code, finished.differences()) == (0, []), outcome.said


def test_the_classifier_of_another_run_is_found_and_made_again(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = finished.root / "classifier" / kept.FILE
    content = kept.load(record)
    assert len(content["trials"]) == 8  # four arms in two folds
    files.write_json(record, kept.signed({**content, "trials": [*content["trials"][1:], "0" * 64]}), indent=1)
    assert list(finished.problems()) == ["classifier/classifier.json"]
    outcome = CommandLine(monkeypatch, capsys)("verify", "--output", str(finished.root))
    assert outcome.code == 1
    said = " ".join(outcome.said.split())
    assert "1 trial that chose it, and the settings of these, are not of this run" in said
    outcome = CommandLine(monkeypatch, capsys)("verify", "--repair", "--output", str(finished.root))
    assert (outcome.code, finished.differences()) == (0, []), outcome.said


def test_the_report_does_not_show_what_is_of_other_tokens(finished: Finished) -> None:
    index = sorted(finished.root.glob(f"{TOKENS}/index.parquet"))[0]
    (finished.root / "tokens" / "index.parquet").write_bytes(index.read_bytes())
    run, remarks = remarks_of(finished.settings)
    run.report()
    assert finished.differences() == []
    assert f"{finished.root / 'tokens' / 'index.parquet'} is damaged; it is made again" in remarks


def test_of_a_lost_configuration_verify_names_that_alone(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished.root / "config.yaml").unlink()
    outcome = CommandLine(monkeypatch, capsys)("verify", "--output", str(finished.root))
    assert outcome.code == 1
    assert "config.yaml: missing" in outcome.said
    assert "1 problem" in outcome.said, outcome.said
