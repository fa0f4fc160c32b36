"""Every shipped configuration from data to report, with small models of the real classes in the Hub's cache."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers
from PIL import Image
from typer.testing import CliRunner

from dct_augment import config
from dct_augment.classifiers import Preprocess
from dct_augment.classifiers.transformers_models import MeanBeforeNorm
from dct_augment.cli.commands import app
from dct_augment.errors import InputError
from dct_augment.pipeline.run import Run
from dct_augment.records import Progress
from tests import tiny
from tests.datasets.layouts import WORDNET_IDS, cub_tree, folder_tree, imagenet_tree, inat_tree
from tests.report.pages import class_table

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = [
    "tokens.max_updates=2",
    "tokens.validate_every=2",
    "tokens.validation_images=2",
    "tokens.images_per_update=2",
    "tokens.plain_first=false",
    "tokens.target_accuracy=0.0",
    "tokens.target_probability=0.0",
    "tokens.restarts=0",
    "tokens.certificate_images=2",
    "metrics.bootstrap_resamples=20",
    "report.images_per_class=2",
    "sampling.num_inference_steps=2",
    "model.dtype=float32",
    "generation.per_class=2",
    "benchmark.per_class=2",
    "downstream.steps=2",
    "downstream.model=test_efficientnet_gn",
    "downstream.pretrained=false",
    "downstream.image_size=32",
    "generation.allow_uncertified=true",
    "downstream.batch_size=4",
    "benchmark.seeds=2",
    "benchmark.shots=1",
    "benchmark.processes=1",
]


def taught(labels: list[str], colours: list[str], *, mean: bool = False) -> transformers.ViTForImageClassification:
    """A small ViT that knows plain colours, as the pictures of the trees are."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(**sizes, image_size=32, patch_size=16, id2label=dict(enumerate(labels)))
    )
    kept = model.vit.layernorm
    network = MeanBeforeNorm(model) if mean else model
    pixels = torch.stack([torch.tensor(Image.new("RGB", (1, 1), one).getpixel((0, 0))) for one in colours])
    images = Preprocess.square(32, (0.5,) * 3, (0.5,) * 3)(
        (pixels / 127.5 - 1).view(-1, 3, 1, 1).expand(-1, -1, 32, 32)
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        output = network(images)
        logits = output if isinstance(output, torch.Tensor) else output.logits
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.arange(len(colours))).backward()
        optimizer.step()
    model.vit.layernorm = kept
    return model


class Hub:
    """A Hub cache of small models under the names of the real ones."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def snapshot(self, name: str) -> Path:
        repository = self.path / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        return repository / "snapshots" / COMMIT

    def text_to_image(self, name: str) -> None:
        pipe = tiny.build("epsilon", length=77).to(dtype=torch.float16)
        pipe.save_pretrained(self.snapshot(name), variant="fp16", safe_serialization=True)

    def classifier(self, name: str, model: transformers.PreTrainedModel) -> None:
        folder = self.snapshot(name)
        model.save_pretrained(folder)
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    made = Hub(tmp_path / "hub")
    made.text_to_image("stable-diffusion-v1-5/stable-diffusion-v1-5")
    return made


def finish(name: str, *overrides: str) -> tuple[Run, list[Progress]]:
    told: list[Progress] = []
    run = Run(config.load(name, [*SMALL, *overrides]), told.append)
    run.run_all()
    run.check()
    return run, told


def test_cub(tmp_path: Path, hub: Hub) -> None:
    hub.classifier("vesteinn/vit-mae-cub", taught(["LABEL_0", "LABEL_1"], ["green", "blue"], mean=True))
    cub_tree(tmp_path / "data")
    run, told = finish("cub")
    assert set(class_table(run.config.root).index) == {"black footed albatross", "laysan albatross"}
    assert len(pd.read_parquet(run.config.root / "benchmark" / "trials.parquet")) == 8
    split = pd.read_parquet(run.config.root / "benchmark" / "splits" / "1-0.parquet")
    assert split.groupby("split").size()[["train", "test"]].tolist() == [2, 8]
    notes = [one.note for one in told if not one.total]
    assert any("memory: balanced" in note for note in notes)
    assert any("'vesteinn/vit-mae-cub' recognises 100% of some real images" in note for note in notes)
    rows = pd.read_parquet(next(run.config.root.glob("shards/*.parquet")))
    assert rows["prompt"].str.contains("<dct-cub-laysan-albatross> laysan albatross").any()


def test_a_folder_with_unreadable_pictures(tmp_path: Path, hub: Hub) -> None:
    labels = ["gull", "crane", "Çà-..", "other"]
    hub.classifier("google/vit-base-patch16-224", taught(labels, ["red", "blue", "green", "black"]))
    root = folder_tree(tmp_path / "data" / "my-images", 12)
    (tmp_path / "words.yaml").write_text("001.Laughing_gull: gull\n")
    for number in range(4, 12):
        (root / "crane" / f"{number:03d}.png").write_bytes(b"no picture")
    run, told = finish("folder", "dataset.words=words.yaml")
    assert set(class_table(run.config.root).index) == {"gull", "crane", "çà-.."}
    notes = [one.note for one in told if not one.total]
    assert [note for note in notes if "8 images cannot be read and are left out: crane/0" in note], notes


def test_inat_by_latin_label(tmp_path: Path, hub: Hub) -> None:
    hub.classifier("vesteinn/vit-mae-inat21", taught(["Apteryx australis", "Grus grus"], ["green", "red"], mean=True))
    inat_tree(tmp_path / "data" / "inat2021", 2021)
    run, _ = finish("inat")
    assert set(class_table(run.config.root).index) == {"common crane", "southern brown kiwi"}


def test_imagenets_two_cranes(tmp_path: Path, hub: Hub) -> None:
    ids = list(WORDNET_IDS)
    hub.classifier("google/vit-large-patch16-224", taught(ids, ["red", "green", "blue", "white"]))
    imagenet_tree(tmp_path / "data" / "imagenet")
    (tmp_path / "match.yaml").write_text("".join(f"{one}: {one}\n" for one in ids))
    run, _ = finish("imagenet", "judge=null", "guide.match=match.yaml")
    rows = pd.concat(pd.read_parquet(path) for path in run.config.root.glob("shards/*.parquet"))
    assert rows.groupby(["class_index", "class_name"]).size().index.tolist() == [
        (0, "crane"),
        (1, "crane"),
        (2, "maillot"),
        (3, "maillot"),
    ]


def test_the_command_line_offline(tmp_path: Path, hub: Hub) -> None:
    """As a user types it, with the environment that the Hub's own tools read."""
    hub.classifier("vesteinn/vit-mae-cub", taught(["LABEL_0", "LABEL_1"], ["green", "blue"], mean=True))
    cub_tree(tmp_path / "data")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub.path)}
    settings = ["--config", "cub", *(part for one in SMALL for part in ("--set", one))]
    train = [sys.executable, "-W", "ignore", "-m", "dct_augment", "train", *settings]
    done = subprocess.run(train, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Could not reach" not in done.stderr

    def type_in(*words: str) -> str:
        answer = CliRunner(env={"COLUMNS": "250"}).invoke(app, words, catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
        return answer.output

    assert "missing" not in type_in("doctor", "--config", "cub", "--set", "downstream.pretrained=false")
    assert "<dct-cub-laysan-albatross>" in type_in("tokens", "list", *settings)
    type_in("tokens", "export", *settings, "--format", "a1111", "--to", "out")
    exported = tmp_path / "out" / "dct-cub-laysan-albatross.safetensors"
    assert "1.000" in type_in("tokens", "compare", str(exported), "runs/cub/tokens/laysan-albatross.safetensors")
    with pytest.raises(InputError, match="is known already"):
        type_in("tokens", "import", str(exported), *settings)
    type_in("tokens", "import", str(exported), "--output", "runs/cub", "--replace")  # as the run itself recorded
    shown = type_in("tokens", "show", "laysan albatross", *settings)
    assert '"origin": "imported: <dct-cub-laysan-albatross>"' in shown
    type_in("generate", *settings, "--set", "tokens.seed=0", "--set", "generation.per_class=1")
