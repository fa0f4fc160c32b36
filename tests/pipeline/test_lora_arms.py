"""The arms with a LoRA: what their folders are named by, which photos they see, and what they leave behind."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dct_augment import config
from dct_augment.benchmark.arms import ARMS, ArmDraw, arm_folder
from dct_augment.config import Arm as ArmName
from dct_augment.generation.shards import shard_folder
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.cost import count
from dct_augment.pipeline.first_config.models import Machine
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import ArmStage, TokenStage
from dct_augment.records import Progress
from tests import tiny

PLAIN: ArmName = "lora_plain_prompt"
TOKEN: ArmName = "lora_class_token"
SMALL = (
    "guide={name: few_shot, backbone: pocket/backbone, folds: 2, augmentations: 1}",
    "judge=null",
    "benchmark.shots=2",
    "benchmark.seeds=2",
    "benchmark.per_class=2",
    "generation.allow_uncertified=true",
    "sampling.num_inference_steps=2",
    *tiny.TWO_UPDATES,
    "lora.steps=3",
    "lora.batch_size=2",
    "lora.learning_rate=0.05",
)


def pocket(output: Path, *settings: str) -> Run:
    """A run of two Pocket birds."""
    return Run(config.load("pocket", [*SMALL, *settings], classes=["crane", "kiwi"], output=output))


def images(run: Run, arm: str, seed: int) -> list[bytes]:
    """The pixels of all images of an arm on a draw."""
    kind = ARMS[arm].images
    assert kind is not None
    folder = shard_folder(arm_folder(run.arm_paths.images, arm, 2, seed), run.config.name, kind)
    return [picture.tobytes() for _, _, picture in folder.images()]


@pytest.mark.slow
def test_arms_with_a_lora_share_one_of_each_draw_and_leave_the_model_as_it_was(tmp_path: Path) -> None:
    run = pocket(tmp_path, f"benchmark.arms=[image_variation, {PLAIN}, {TOKEN}]")
    told: list[Progress] = []
    stage = ArmStage(run)
    units = stage.pending()
    assert [unit.title.partition(",")[0] for unit in units] == ["image_variation", PLAIN, TOKEN] * 2
    for number in (0, 1, 2, 4):
        stage.do(units[number], told.append)
    assert [unit.number for unit in ArmStage(run).pending()] == [3, 5]
    assert all(progress.done <= progress.total for progress in told)
    trained = [progress for progress in told if progress.note.endswith("LoRA")]
    assert len(trained) == 2 * 3  # the steps of two draws: the arm that comes second has nothing to train

    loras = [run.arm_paths.lora(ArmDraw(PLAIN, 2, seed)) for seed in (0, 1)]
    assert loras[0] == run.arm_paths.lora(ArmDraw(TOKEN, 2, 0))
    states = [load_file(path) for path in loras]
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert all(key.startswith("unet.") for key in states[0])
    assert len({tuple(images(run, *of)) for of in ((PLAIN, 0), (TOKEN, 0), (PLAIN, 1))}) == 3

    # The arm without a LoRA, made again by the same model after it had one, has the same bytes.
    before = images(run, "image_variation", 0)
    shutil.rmtree(run.arm_paths.images["image_variation"])
    stage.do(units[0])
    assert images(run, "image_variation", 0) == before
    assert not any("lora_" in name for name, _ in run.backend.denoiser.named_parameters())


@pytest.mark.slow
def test_a_killed_training_goes_on_and_gives_the_same_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dct_augment.tokens.lora._STEPS_A_CHECKPOINT", 1)
    loras, modules = [], []
    for name in ("whole", "killed"):
        run = pocket(tmp_path / name, f"benchmark.arms=[{PLAIN}]")
        stage = ArmStage(run)
        unit = stage.pending()[0]
        path = run.arm_paths.lora(ArmDraw(PLAIN, 2, 0))
        modules.append([module for module, _ in run.backend.denoiser.named_modules()])
        if name == "killed":
            with pytest.raises(KeyboardInterrupt):
                stage.do(unit, _kill)
            assert [file.name for file in path.parent.iterdir() if file.name != ".lock"] == [".training-lora.pt"]
            assert [module for module, _ in run.backend.denoiser.named_modules()] == modules[0]
        told: list[str] = []
        stage.do(unit, lambda progress, told=told: told.append(progress.note))  # type: ignore[misc]
        assert sum(note.endswith("LoRA") for note in told) == (1 if name == "killed" else 3)
        assert {file.name for file in path.parent.iterdir()} == {".lock", path.name}
        loras.append(path.read_bytes())
    assert loras[0] == loras[1]


def _kill(progress: Progress) -> None:
    if progress.note.endswith("LoRA") and progress.done == 3:
        raise KeyboardInterrupt


def context(output: Path, *settings: str) -> RunContext:
    return RunContext(config.load("pocket", ["benchmark.shots=2", *settings], output=output))


def names(output: Path, *settings: str) -> dict[str, Any]:
    """What the folders of arms are called: of images, of tokens with the guide, and of LoRAs."""
    run = context(output, *settings)
    own = [name for name, arm in ARMS.items() if arm.own_images]
    found = {f"images of {name}": run.arm_paths.images[name].name for name in own}
    draws = {name: ArmDraw(name, 2, 0) for name in own}  # type: ignore[arg-type]
    found |= {f"tokens of {name}": run.arm_paths.tokens(draw).parent.name for name, draw in draws.items()}
    found |= {f"LoRA of {name}": run.arm_paths.lora(draws[name]).parent.parent.name for name in own if ARMS[name].lora}
    return found


EVERYTHING = {f"images of {PLAIN}", f"images of {TOKEN}", f"tokens of {TOKEN}", f"LoRA of {PLAIN}", f"LoRA of {TOKEN}"}


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ("lora.rank=3", EVERYTHING),
        ("lora.steps=9", EVERYTHING),
        ("lora.batch_size=3", EVERYTHING),
        ("lora.learning_rate=0.1", EVERYTHING),
        ("lora.seed=1", EVERYTHING),
        ("generation.allow_uncertified=true", {f"images of {name}" for name, arm in ARMS.items() if arm.own_images}),
        ("generation.per_class=500", set()),
    ],
)
def test_settings_of_a_lora_name_the_folders_of_its_arms_and_no_other(
    tmp_path: Path, change: str, changed: set[str]
) -> None:
    before, after = names(tmp_path), names(tmp_path, change)
    assert {what for what, name in after.items() if name != before[what]} == changed


@pytest.mark.parametrize(
    ("change", "is_the_same"),
    [
        ("tokens.max_updates=7", True),
        ("generation.seed=7", True),
        ("prompts.negative=blurry", True),
        ("judge=null", True),
        ("guide={name: few_shot, backbone: pocket/backbone}", True),
        ("model.revision=other", False),
        ("model.dtype=bfloat16", False),
        ("prompts.templates=['a drawing of a {token} {class}{context}']", False),
        ("dataset.classes=[crane, kiwi]", False),
        ("benchmark.imbalance=2", False),
        ("benchmark.protocol=cross_validation", False),
    ],
)
def test_a_lora_is_named_by_what_decides_it_and_by_nothing_else(tmp_path: Path, change: str, is_the_same: bool) -> None:
    before, after = names(tmp_path), names(tmp_path, change)
    assert (after[f"LoRA of {PLAIN}"] == before[f"LoRA of {PLAIN}"]) == is_the_same


def test_arms_without_a_lora_have_the_folders_that_they_always_had(tmp_path: Path) -> None:
    """Work of earlier versions lies there. A change of these names makes all of it anew: say so in CHANGELOG.md."""
    from_nothing = ["downstream.model=test_efficientnet_gn", "downstream.pretrained=false", "downstream.steps=100"]
    settings = [*from_nothing, "downstream.batch_size=32", "downstream.learning_rate=0.005"]
    found = RunContext(config.load("pocket", settings, output=tmp_path)).arm_paths.images
    assert found["image_variation"].name == "image_variation-9165b188"
    assert found["textual_inversion"].name == "textual_inversion-7d927786"
    assert found["class_token_few_shot_guide"].name == "class_token_few_shot_guide-9165b188"


def test_the_guide_of_plain_prompts_on_a_lora_is_that_of_the_few_shot_guide_arm(tmp_path: Path) -> None:
    found = names(tmp_path)
    assert found[f"tokens of {PLAIN}"] == found["tokens of class_token_few_shot_guide"]
    assert found[f"tokens of {TOKEN}"] != found["tokens of class_token_few_shot_guide"]


def test_a_run_of_a_draw_begins_no_process_that_would_lack_its_photos_and_lora(tmp_path: Path) -> None:
    run = pocket(
        tmp_path, "benchmark.arms=[class_token_few_shot_guide]", "runner.processes=2", "tokens.classes_per_work_unit=1"
    )
    inner = ArmStage(run)._inner_run(ArmDraw("class_token_few_shot_guide", 2, 0))
    units = TokenStage(inner, inner.classes).pending()
    assert len(units) == 2
    assert TokenStage(inner, inner.classes).side_by_side(units) == 1
    assert TokenStage(run).side_by_side(units) == ArmStage(run).side_by_side(units) == 2


def test_a_lora_is_counted_once_for_each_draw() -> None:
    machine = Machine(None, 2, {}, offline=True)

    def evaluations(*arms: str, steps: int = 10) -> int:
        settings = [
            "benchmark.seeds=3",
            f"lora.steps={steps}",
            "lora.batch_size=4",
            f"benchmark.arms=[{', '.join(arms)}]",
        ]
        return count(config.load("pocket", settings), 2, machine).evaluations

    assert evaluations(PLAIN, steps=20) - evaluations(PLAIN) == 3 * 3 * 10 * 4
    assert evaluations(PLAIN, TOKEN, steps=20) - evaluations(PLAIN, TOKEN) == 3 * 3 * 10 * 4
    assert evaluations(PLAIN) - evaluations("image_variation") == 3 * 3 * 10 * 4
