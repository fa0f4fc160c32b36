"""What a text-to-image model cannot do is refused before any work, and by a dry run, too."""

import json
import shutil
from pathlib import Path

import pytest

from dct_augment import config, diffusion
from dct_augment.cli.plan import print_plan
from dct_augment.errors import ModelError
from dct_augment.pipeline import Run
from dct_augment.pipeline.model_check import check_sampling
from dct_augment.records import StageName
from tests import tiny


@pytest.mark.parametrize(
    ("family", "setting", "said"),
    [
        ("lcm", "prompts.negative=blurry", r"prompts.negative 'blurry' does not suit this model.*Leave it empty"),
        ("lcm", "prompts.negative={crane: blurry}", r"prompts.negative 'blurry' does not suit this model"),
        ("flux", "prompts.negative=blurry", r"prompts.negative 'blurry' does not suit this model.*Leave it empty"),
        (
            "schnell",
            "sampling.guidance_scale=3.5",
            r"guidance_scale 3.5 does not suit .* Set sampling.guidance_scale to 1",
        ),
        (
            "schnell",
            "generation.guidance_scale=2",
            r"guidance_scale 2 does not suit .* leave generation.guidance_scale",
        ),
        (
            "epsilon",
            "sampling.scheduler=DDIM",
            r"sampling.scheduler 'DDIM' does not suit .* its own, \w+, or one of: DDIMS",
        ),
        ("sd3", "sampling.scheduler=DDIMScheduler", r"its own, FlowMatchEulerDiscreteScheduler, or one of: FlowMatchE"),
        (
            "epsilon",
            "model.adapters=[{path: ./gone.safetensors}]",
            r"adapter './gone.safetensors' does not exist; give a",
        ),
        ("pixart", "model.adapters=[{path: ./gone.safetensors}]", "diffusers has no loader of LoRAs for a PixArtSigma"),
    ],
)
def test_what_a_model_cannot_have_is_refused_before_any_work(
    tmp_path: Path, family: str, setting: str, said: str
) -> None:
    settings = [f"model.path={tiny.pipeline_folder(family)}", "sampling.guidance_scale=1"]
    check_sampling(config.load("pocket", settings))
    refused = config.load("pocket", [*settings, setting], output=tmp_path / "run")
    with pytest.raises(ModelError, match=said):
        Run(refused).train()
    with pytest.raises(ModelError, match=said):
        print_plan(refused, StageName.TOKENS, price=None)
    assert not (tmp_path / "run").exists()


def test_more_steps_than_the_scheduler_of_the_model_has_are_refused_before_any_work(tmp_path: Path) -> None:
    folder = tmp_path / "short"
    shutil.copytree(tiny.pipeline_folder("epsilon"), folder)
    settings = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings | {"num_train_timesteps": 60}))
    said = r"sampling.num_inference_steps 61 does not suit this model's scheduler, DDIMScheduler: .*Set fewer"
    for steps in (60, 61):
        loaded = config.load(
            "pocket", [f"model.path={folder}", f"sampling.num_inference_steps={steps}"], output=tmp_path / "run"
        )
        if steps == 60:
            check_sampling(loaded)
            continue
        for work in (check_sampling, lambda config: Run(config).train()):
            with pytest.raises(ModelError, match=said):
                work(loaded)
    backend = diffusion.load(str(folder))
    with pytest.raises(ModelError, match=said):
        backend.scheduler(61)
