"""Scripts of benchmarks/ at their smallest size: that they still run, and that what they print or write is there."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from dct_augment import config
from dct_augment.pipeline import Run
from tests.processes import Program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TINY = [
    "tokens.max_updates=1",
    "tokens.validate_every=1",
    "tokens.restarts=0",
    "tokens.validation_images=2",
    "tokens.certificate_images=4",
    "tokens.images_per_update=1",
    "sampling.num_inference_steps=2",
]

SMALL_BENCHMARK = [
    "benchmark.seeds=2",
    "downstream.steps=2",
    "downstream.image_size=32",
    "benchmark.shots=1",
    "benchmark.per_class=2",
    "benchmark.shots_curve=[]",
    "benchmark.processes=1",
    "metrics.per_class=3",
    "metrics.bootstrap_resamples=20",
    "metrics.real_images=24",
    "metrics.nearest_neighbours=2",
]


def as_options(settings: Sequence[str]) -> tuple[str, ...]:
    """Write settings as options of a command line."""
    return tuple(word for setting in settings for word in ("--set", setting))


SETS = as_options(TINY)
HERE = {"PYTHONPATH": str(ROOT)}


def call(script: str, *arguments: str, folder: Path) -> str:
    """Run a script in a process of its own; return what it prints."""
    environment = {"PREFECT_HOME": str(folder / "prefect"), **HERE}
    code, printed = Program.start(folder, f"benchmarks.{script}", *arguments, environment=environment).end()
    assert code == 0, printed[-3000:]
    return printed


def rows(text: str) -> list[list[str]]:
    """The cells of each row of Markdown tables, heads too, rules not."""
    lines = (line for line in text.splitlines() if line.startswith("|") and not line.startswith(("|---", "| ---")))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two digits with a benchmark of two arms, reported."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    settings = [*TINY, *SMALL_BENCHMARK, "benchmark.arms=[real+strong_aug,plain_prompt]"]
    run = Run(config.load("digits", settings, classes=["one", "two"], output=folder, per_class=2))
    run.train()
    run.generate()
    run.benchmark()
    run.report()
    return folder


def test_metrics_size(tmp_path: Path) -> None:
    small = ("--images", "400", "--real", "90", "--width", "8", "--classes", "4", "--resamples", "5")
    table = rows(call("metrics_size", *small, folder=tmp_path))
    assert [row[0] for row in table[1:]] == ["100", "400"]
    assert all(float(row[4]) >= 0 for row in table[1:])


def test_dataset_index(tmp_path: Path) -> None:
    lines = call("dataset_index", "--pictures", "80", folder=tmp_path).splitlines()
    assert [re.match(r" *(\d+) pictures: [\d.]+ s", line)[1] for line in lines] == ["20", "80"]  # type: ignore[index]


def test_data_look(tmp_path: Path) -> None:
    lines = call("data_look", "--pictures", "40", folder=tmp_path).splitlines()
    found = [re.match(r" *(\d+) pictures, (\d+) groups: [\d.]+ s", line) for line in lines]
    assert [(match[1], match[2]) for match in found if match] == [("10", "1")] * 2 + [("40", "4")] * 2


def test_leaderboard(finished: Path, tmp_path: Path) -> None:
    found = rows(call("leaderboard", str(finished), "--details", folder=tmp_path))
    assert found[0] == ["judge accuracy", "digits, plain", "digits, token"]
    named = {row[0]: row[1:] for row in found}
    assert all(re.match(r"[\d.]+ % \([\d.]+ \.\. [\d.]+\)", cell) for cell in named["all classes"])
    assert named["`real+strong_aug`"][0].endswith(")")
    assert "`plain_prompt` - `real+strong_aug`" in named


def test_picture(finished: Path, tmp_path: Path) -> None:
    call("picture", str(finished), "--images", "2", "--out", "sheet.png", folder=tmp_path)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * (2 * 64 + 12) - 12, 16 + 2 * 64 + 4)
        assert len(sheet.convert("RGB").getcolors(1 << 20) or ()) > 100


def test_savings(tmp_path: Path) -> None:
    small = ("--rounds", "1", "--no-compile", "--classes", "crane", "--images", "1", "--generated", "2")
    head, *found = rows(call("savings", *small, *SETS, folder=tmp_path))
    assert len(found) == 7
    cosines = {row[0]: row[head.index("cosine")] for row in found}
    assert cosines["balanced memory (checkpointing)"] == cosines["empty prompt encoded once"] == "1.0000"


def test_memory_needs(tmp_path: Path) -> None:
    head, *found = rows(call("memory_needs", "--tiny", "--dtype", "float32", folder=tmp_path))
    share = {(row[0], row[1]): float(row[head.index("of the paper's loop")]) for row in found}
    assert share["the paper's loop", "1"] == 1
    assert share["balanced: update", "1"] <= share["fast: update", "1"] <= 1
    assert share["balanced: update", "1"] <= share["balanced: update", "2"] <= share["balanced: update", "4"]


def test_generation_overhead(tmp_path: Path) -> None:
    """A shard of a run with its bare denoiser, and the parts of it; then those of larger models, here small ones."""
    small = ("--rounds", "1", "--classes", "crane", "--set", "generation.per_class=2", *SETS)
    found = rows(call("generation_overhead", *small, folder=tmp_path))
    assert re.match(r"[\d.]+ \([\d.]+ \.\. [\d.]+\)", found[1][0])
    parts = ["texts", "guide", "judge", "pixels and files"]
    assert [row[0] for row in found[3:]] == [*parts, "all", "bare"]
    seconds = {row[0]: float(row[1]) for row in found[3:]}
    assert seconds["all"] == pytest.approx(sum(seconds[part] for part in parts), abs=0.3)
    found = rows(call("generation_overhead", "--large", "--tiny", folder=tmp_path))
    assert [row[0] for row in found[1:]] == [*parts, "all", "bare"]


def test_report_memory(tmp_path: Path) -> None:
    ((classes, images, _, memory, _),) = rows(
        call("report_memory", "--classes", "3", "--images", "2", folder=tmp_path)
    )[1:]
    assert (classes, images, float(memory) > 0) == ("3", "2", True)


def test_slots(tmp_path: Path) -> None:
    found = rows(call("slots", "--classes", "crane,kiwi", "--updates", "1", *SETS, folder=tmp_path))
    assert [row[0] for row in found] == ["updates", "1"]
    assert all(float(row[2]) <= 1e-3 for row in found[1:])


def test_token_training(tmp_path: Path) -> None:
    """With the paper's loop, by its own step size."""
    only = "direct_align (default);paper, own step size, 2 steps"
    found = rows(
        call(
            "token_training",
            "--classes",
            "crane",
            "--judge-images",
            "2",
            "--variants",
            only,
            "--epochs",
            "1",
            "--out",
            "found.json",
            "--plot",
            "plot.svg",
            *SETS,
            folder=tmp_path,
        )
    )
    assert [row[0] for row in found[1:3]] == only.split(";")
    curves = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [one["title"] for one in curves] == only.split(";")
    assert all(one["evaluations"] > 0 and one["peak"] > 0 for one in curves)
    assert "</svg>" in (tmp_path / "plot.svg").read_text(encoding="utf-8")


def test_gpu(tmp_path: Path) -> None:
    """All parts at their smallest on a CPU; what is measured is not measured again, nor begun without time for it."""
    tiny = ("--tiny", "--device", "cpu", "--out", "gpu.json")
    late = call("gpu", *tiny, "--minutes", "0", folder=tmp_path)
    names = [line.partition(" (")[0] for line in late.partition("goes on with: ")[2].split(", ")]
    assert len(names) == 6
    assert not (tmp_path / "gpu.json").exists()
    assert "all is measured" in call("gpu", *tiny, folder=tmp_path)
    written = (tmp_path / "gpu.json").read_bytes()
    pieces = json.loads(written)["pieces"]
    assert list(pieces) == names
    assert [row["method"] for row in pieces["updates/sdxl/low/1x1"]["rows"]][-2:] == [
        "direct_align",
        "the paper's loop",
    ]
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in pieces["updates/sdxl/low/1x1"]["rows"])
    assert all(row["cosine_float16"] > 0.999 for row in pieces["precision/sd15"]["rows"])
    assert pieces["generation/sdxl"]["rows"][0]["largest_mean_difference_of_pixels"] == 0
    assert pieces["memory_8gb/sd15"]["rows"][0]["certificates"] == 2
    assert "..." not in call("gpu", *tiny, folder=tmp_path)
    assert (tmp_path / "gpu.json").read_bytes() == written
    heads = [row[0] for row in rows(call("gpu", "--table", "--out", "gpu.json", folder=tmp_path))]
    assert heads.count("method") == 2
    assert {"denoiser", "pipeline", "training", "model.memory"} <= set(heads)


def test_gpu_refuses_figures_of_another_machine_and_what_is_no_result(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    for content, message in (
        ('{"machine": {"device": "Another GPU"}, "pieces": {}}', "is of device Another GPU"),
        ("{", "cannot be read"),
        ("[]", "is no result"),
    ):
        out.write_text(content, encoding="utf-8")
        program = Program.start(tmp_path, "benchmarks.gpu", "--tiny", "--out", "gpu.json", environment=HERE)
        code, printed = program.end()
        assert (code, message in printed, "Traceback" in printed) == (2, True, False), printed
        assert out.read_text(encoding="utf-8") == content


def test_token_seeds(tmp_path: Path) -> None:
    """Two trainings, whose last row is the mean over them."""
    small = [*SMALL_BENCHMARK, "dataset.classes=[one, two]", "generation.per_class=2"]
    table = rows(call("token_seeds", "digits", "--seeds", "2", *SETS, *as_options(small), folder=tmp_path))
    assert [row[0] for row in table[1:3]] == ["0", "1"]
    assert float(table[3][1].split()[0]) == pytest.approx((float(table[1][1]) + float(table[2][1])) / 2, abs=0.11)


def test_start_words(tmp_path: Path) -> None:
    """Each word once."""
    only = ("--seeds", "1", "--configs", "digits", "--classes", "one", "--out", "found.jsonl")
    output = call("start_words", *only, *SETS, folder=tmp_path)
    assert [row[:3] for row in rows(output)[1:]] == [["digits", "1", "`a`"], ["digits", "1", "`{class}`"]]
    assert "`{class}` minus `a`, judge accuracy, points: " in output
    lines = (tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
