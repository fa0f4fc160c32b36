"""The doctor: what is there, what is missing, and that it downloads nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from dct_augment import config, datasets, pocket
from dct_augment.devices import resolve_device
from dct_augment.pipeline.cost import count
from dct_augment.pipeline.doctor.examination import examine
from dct_augment.pipeline.doctor.finding import Finding
from dct_augment.pipeline.first_config import models
from dct_augment.pipeline.protocol import load_dataset
from dct_augment.pipeline.speed import measure_trials
from tests import tiny
from tests.classifiers import zero_shot_models


def examined(*overrides: str, name: str = "pocket") -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(config.load(name, overrides))}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tmp_path / "cache"


def test_the_doctor_finds_all_that_pocket_needs() -> None:
    findings = examined()
    assert {finding.state for finding in findings.values()} == {"ok"}
    assert "16 classes; 320 train" in findings["data set"].detail


def test_the_doctor_counts_the_chosen_classes_alone() -> None:
    named = "prompts.contexts={kiwi: [' at sea'], default: ['']}"  # a class that is not chosen may be named
    findings = examined("dataset.classes=[crane, cardinal]", named)
    assert findings["data set"].detail == "pocket: 2 classes; 40 train, 20 val, 80 test images"
    assert findings["metrics"].detail.startswith("up to 340 images to embed")
    assert findings["prompts"].state == "ok"


@pytest.mark.parametrize(
    ("family", "setting", "said"),
    [
        ("lcm", "prompts.negative=blurry", "prompts.negative 'blurry' does not suit this model"),
        ("schnell", "sampling.guidance_scale=2", "guidance_scale 2 does not suit this model"),
        ("sd3", "sampling.scheduler=DDIMScheduler", "sampling.scheduler 'DDIMScheduler' does not suit this model"),
        ("epsilon", "sampling.scheduler=DDIM", "sampling.scheduler 'DDIM' does not suit this model"),
    ],
)
def test_the_doctor_says_what_sampling_a_model_cannot_have(family: str, setting: str, said: str) -> None:
    own = (f"model.path={tiny.pipeline_folder(family)}", "sampling.guidance_scale=1")
    assert examined(*own)["sampling"].state == "ok"
    finding = examined(*own, setting)["sampling"]
    assert (finding.state, finding.detail[: len(said)]) == ("missing", said)


def test_the_doctor_counts_the_tokens_of_every_fold_and_says_what_is_cheaper(tmp_path: Path) -> None:
    for label in ("gate", "petal"):
        for number in range(4):
            path = tmp_path / "photos" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (50 * number, 10, 10)).save(path)
    few = (
        f"dataset={{name: folder, path: {tmp_path / 'photos'}}}",
        "guide={name: few_shot, backbone: pocket/backbone}",
    )
    work = examined(*few, "benchmark.folds=4", "benchmark.per_class=3", "generation.per_class=5")["work"]
    # 2 classes: a token for each of 4 folds and one of all photos; 5 images of each kind, and 3 a fold.
    assert work.detail.startswith("10 class tokens, 44 images, 16 trainings of the classifier; up to ")
    assert "cross-validation: 4 folds x 2 class tokens, and 2 of all photos: 10. Cheaper: --set" in work.fix
    assert "cross-validation" not in examined()["work"].fix


def test_the_doctor_checks_labels_without_loading_weights(tmp_path: Path) -> None:
    folder = tiny.classifier_folder("test_resnet", ("a", "crane"), 32)
    guide = examined(f"guide.name=local-dir:{folder}")["guide"]
    assert (guide.state, "no single label for 15 of 16 classes" in guide.detail) == ("missing", True)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    guide = examined(f"guide={{name: 'local-dir:{folder}', labels: {tmp_path / 'names.txt'}}}")["guide"]
    assert (guide.state, "names 3 labels, but the classifier has 2 outputs" in guide.detail) == ("missing", True)
    findings = examined("guide.name=pocket/digits-guide")
    assert (findings["guide"].state, findings["judge"].state) == ("missing", "ok")
    assert findings["judge"].detail == "pocket/birds-judge, shipped; 20 labels, input 64 pixels"


def test_the_doctor_reads_the_size_of_a_model_from_its_files() -> None:
    """The tiny model has images of 16 pixels: `LATENT` of 8, and a VAE of two levels."""
    folder = tiny.pipeline_folder()
    findings = examined(f"model.path={folder}", "generation.per_class=3", "generation.image_format=png")
    assert models.size_of(str(folder)) == models.ModelSize(16, 8, weights_of(folder / "unet"))
    assert "for 96 images of 16 pixels" in findings["disk"].detail
    flux = tiny.pipeline_folder("flux")  # of which no file says the size: images of 128 latents
    assert models.size_of(str(flux)) == models.ModelSize(256, 128, weights_of(flux / "transformer"))
    machine = models.Machine(None, 2, {}, offline=True)
    usual = machine.seconds(models.STABLE_DIFFUSION, 1000)
    assert machine.seconds(models.STABLE_DIFFUSION, 1000, models.size_of(str(folder))) < usual / 1000
    assert machine.seconds(models.STABLE_DIFFUSION, 1000, models.STABLE_DIFFUSION.size) == usual


def weights_of(folder: Path) -> int:
    return sum(tensor.size for file in folder.glob("*.safetensors") for tensor in load_file(file).values())


def test_the_doctor_and_init_have_one_estimate_of_the_work() -> None:
    settings = config.load("pocket")
    dataset, settings = load_dataset(settings)
    trials = measure_trials(settings, dataset, 16, resolve_device("auto"))
    work = count(settings, 16, models.Machine.here(), trials)
    assert examined()["work"].detail == work.in_words
    assert work.seconds > count(settings, 16, models.Machine.here()).seconds
    assert work.in_words.endswith(" here (an estimate; --dry-run measures)")


def test_the_doctor_counts_the_images_that_metrics_embed() -> None:
    few = ("metrics.real_images=100", "metrics.per_class=10", "benchmark.arms=[real, plain_prompt, class_token]")
    # 100 real images to compare with, 100 of the test, and 10 of 16 classes with each of two kinds of prompts.
    assert examined(*few)["metrics"].detail == (
        "up to 520 images to embed; 200 resamples of FID and of KID for 3 kinds of images"
    )
    assert examined("metrics.features=null")["metrics"].detail == "none are measured"


def test_the_doctor_names_what_cub_lacks_on_an_empty_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = examined(name="cub")
    missing = {what for what, finding in findings.items() if finding.state == "missing"}
    assert missing == {"text-to-image model", "guide", "data set", "low-resource classifier"}
    assert "downloads it from the Hub; read and accept the licence" in findings["guide"].fix
    assert "Caltech" in findings["data set"].detail + findings["data set"].fix
    assert "40,000 images" in findings["disk"].detail
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in examined(name="cub")["guide"].detail


def test_the_doctor_reads_the_files_of_adapters(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.safetensors", tmp_path / "broken.safetensors"
    save_file({"unet.to_q.lora_A.weight": np.ones((2, 3), np.float32)}, good)
    save_file({"unet.to_q.lora_A.weight": np.full((2, 3), np.nan, np.float32)}, broken)
    listed = f"{{path: {good}, weight: 0.5}}, {{path: {broken}}}, {{path: someone/style}}"
    findings = examined(f"model.adapters=[{listed}]")
    assert findings["adapter good"] == Finding("adapter good", "ok", f"{good}, weight 0.5")
    assert findings["adapter broken"].state == findings["adapter style"].state == "missing"
    assert "unet.to_q.lora_A.weight is not finite" in findings["adapter broken"].detail
    assert findings["adapter style"].detail.startswith("someone/style: its file not in the Hub's cache")


def test_the_doctor_tells_a_complete_text_to_image_model_from_one_that_lacks_a_part(cache: Path) -> None:
    repository = cache / "models--some--model"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny.pipeline_folder(), snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    complete = examined("model.path=some/model")["text-to-image model"]
    assert (complete.state, "StableDiffusionPipeline" in complete.detail) == ("ok", True)
    half_precision = examined("model.path=some/model", "model.variant=fp16")["text-to-image model"]
    assert "text_encoder, unet, vae not in the Hub's cache" in half_precision.detail
    assert examined("model.path=some/model", "model.revision=v2")["text-to-image model"].state == "missing"
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert examined(f"model.path={snapshot}")["text-to-image model"].detail.endswith("lacks unet")


def test_the_doctor_names_classifiers_that_cannot_be_found(tmp_path: Path) -> None:
    names = [info.name for info in datasets.load("pocket").classes]
    folder = tiny.classifier_folder("test_resnet", tuple(names), 32)
    guide = examined(f"guide.name=local-dir:{folder}")["guide"]
    assert (guide.state, guide.detail) == ("ok", f"local-dir:{folder}, a folder; 16 labels, input 32 pixels")
    for name in ("local-dir:/none", "./none", "pocket/none", "resnet50.a1_in1k", "some/classifier"):
        guide = examined(f"guide.name={name}")["guide"]
        assert (guide.state, bool(guide.fix), name in guide.detail) == ("missing", True, True)
    assert "does not exist" in examined("guide.labels=/none.txt")["guide"].detail
    assert examined("guide.name=my:guide", "guide.library=function")["guide"].state == "ok"


def test_the_doctor_examines_what_a_guide_of_photos_or_names_is_made_on(tmp_path: Path) -> None:
    guide = examined("guide={name: few_shot, backbone: pocket/backbone}")["guide"]
    assert (guide.state, guide.detail) == ("ok", "few_shot: pocket/backbone, shipped")
    for name in ("few_shot", "zero_shot", f"{{name: few_shot, backbone: 'local-dir:{tmp_path}'}}"):
        guide = examined(f"guide={name}")["guide"]
        assert (guide.state, bool(guide.fix)) == ("missing", True)
    assert "few_shot: local-dir:" in guide.detail


def test_the_doctor_says_that_pockets_backbone_is_no_guide() -> None:
    guide = examined("guide=pocket/backbone")["guide"]
    assert (guide.state, "{name: few_shot, backbone: pocket/backbone}" in guide.detail) == ("missing", True)
    downstream = examined("downstream.model=pocket/backbone", "downstream.pretrained=true")
    assert downstream["low-resource classifier"].state == "ok"


def test_the_doctor_examines_the_models_of_downstream_and_metrics(tmp_path: Path) -> None:
    folder = tiny.classifier_folder("test_resnet", ("a", "b"), 32)
    classifier = examined(f"downstream.model=local-dir:{folder}", "downstream.pretrained=true")[
        "low-resource classifier"
    ]
    assert classifier.state == "ok"
    assert examined("metrics.features=vit_small_patch14_dinov2.lvd142m")["image features"].state == "missing"
    assert examined("metrics.features=inception")["image features"].state == "ok"
    inception = examined("metrics.features=inception", "metrics.inception_weights=/none.pth")["image features"]
    assert (inception.state, "/none.pth does not exist" in inception.detail) == ("missing", True)


def test_the_doctor_counts_the_classes_of_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (4, 4)).save(tmp_path / "data" / name / f"{number}.png")
    setting = json.dumps({"name": "folder", "path": str(tmp_path / "data")})
    assert "2 classes" in examined(f"dataset={setting}")["data set"].detail


def test_the_doctor_warns_of_a_prefect_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    server = examined()["Prefect server"]
    assert (server.state, "does not answer" in server.detail) == ("warning", True)


def test_the_doctor_says_that_a_function_needs_its_library() -> None:
    guide = examined("guide.name=my:guide")["guide"]
    assert (guide.state, "library: function" in guide.detail) == ("missing", True)


def test_the_doctor_says_where_a_published_data_set_comes_from(tmp_path: Path) -> None:
    findings = examined(f"dataset.path={tmp_path}", name="pets")
    assert findings["data set"].state == "missing"
    assert "torchvision downloads it (`download=True`), 800 MB; CC BY-SA 4.0" in findings["data set"].fix
    assert "7,400 images" in findings["disk"].detail


def test_the_doctor_says_that_a_data_set_of_the_hub_would_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "prepared"))
    path = tmp_path / "birds.yaml"
    path.write_text(
        "name: birds\ndataset: {name: huggingface, path: someone/birds}\nguide: {name: pocket/birds-guide}\n"
    )
    finding = examined(name=str(path))["data set"]
    assert (finding.state, finding.detail) == ("missing", "someone/birds is not on this machine")
    assert "downloaded when a run begins" in finding.fix
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    finding = examined(name=str(path))["data set"]
    assert finding.detail == "someone/birds is not on this machine, and HF_DATASETS_OFFLINE is set"
    assert finding.fix == "unset HF_DATASETS_OFFLINE for the first run"


def test_the_doctor_says_which_prompts_would_be_cut() -> None:
    assert "reads all of every prompt" in examined()["prompts"].detail
    prompts = examined(f"prompts.negative={'blurry ' * 100}")["prompts"]
    assert (prompts.state, "blurry blurry'. Shorten it" in prompts.detail) == ("missing", True)
    assert "no class 'cran'" in examined("tokens.init_word={cran: bird}")["prompts"].detail
    assert examined(name="cub")["prompts"].detail == "known once the data set is there"
    assert "known once the text-to-image model is there" in examined("model.path=some/model")["prompts"].detail


def zero_shot(model: object, **more: object) -> str:
    return json.dumps({"name": "zero_shot", "model": str(model), **more})


def test_the_doctor_examines_a_zero_shot_guide_and_judge(cache: Path) -> None:
    findings = examined(f"guide={zero_shot(zero_shot_models.folder('clip'))}", f"judge={zero_shot('some/siglip')}")
    assert (findings["guide"].state, findings["guide"].detail[-10:]) == ("ok", ", a folder")
    assert findings["guide's prompts"].detail == "the text encoder reads all of every prompt"
    assert (findings["judge"].state, "weights not in the Hub's cache" in findings["judge"].detail) == ("missing", True)
    assert findings["judge's prompts"].detail == "known once its model is there"
    snapshot = cache / "models--some--siglip" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(zero_shot_models.folder("siglip"), snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(snapshot.name)
    judge = examined(f"judge={zero_shot('some/siglip')}")
    assert (judge["judge"].state, judge["judge's prompts"].state) == ("ok", "ok")


def test_the_doctor_says_what_stops_a_zero_shot_guide() -> None:
    folder = zero_shot_models.folder("clip")
    cut = examined(f"guide={zero_shot(folder, templates=['{class} ' + 'by the water ' * 30])}")["guide's prompts"]
    assert (cut.state, "would lose" in cut.detail) == ("missing", True)
    timm_folder = tiny.classifier_folder("test_resnet", ("a", "b"), 32)
    other = examined(f"guide={zero_shot(timm_folder)}")["guide's prompts"]
    assert (other.state, "neither CLIP nor SigLIP" in other.detail) == ("missing", True)
    assert examined(f"guide={zero_shot('/none')}")["guide"].state == "missing"
    for name in ("pocket/birds-guide", "my_guide:load"):
        guide = examined(f"guide={zero_shot(name)}")["guide"]
        assert (guide.state, "neither an id on the Hub nor a folder" in guide.detail) == ("missing", True)


@pytest.mark.parametrize("role", ["guide", "judge"])
def test_the_doctor_warns_of_a_zero_shot_classifier_with_the_generators_text_encoder(role: str) -> None:
    generator = "model.path=stable-diffusion-v1-5/stable-diffusion-v1-5"
    finding = examined(generator, f"{role}={zero_shot('openai/clip-vit-large-patch14')}")[f"{role}'s text encoder"]
    assert finding.state == "warning"
    assert finding.detail.startswith(
        "zero_shot openai/clip-vit-large-patch14 has the text encoder of the text-to-image"
    )
    assert f"{role}'s text encoder" not in examined(generator, f"{role}={zero_shot('openai/clip-vit-base-patch32')}")


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json"])
@pytest.mark.parametrize("content", ["", "[1]"])
def test_a_damaged_file_of_a_text_to_image_model_is_one_finding(tmp_path: Path, file: str, content: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.pipeline_folder(), folder)
    (folder / file).write_text(content or (folder / file).read_text()[:40])
    finding = examined(f"model.path={folder}")["text-to-image model"]
    assert (finding.state, finding.detail) == ("missing", f"{folder}: {file} is damaged")
    assert f"delete {folder / file}, and download the model again" in finding.fix


def test_the_doctor_finds_files_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    labels = json.loads((pocket.path("birds-guide") / "config.json").read_text())["label_names"]
    (tmp_path / "names.txt").write_text("\n".join(labels))
    (tmp_path / "match.yaml").write_text("crane: crane")
    assert examined("guide.labels=~/names.txt", "guide.match=~/match.yaml")["guide"].state == "ok"
    assert "gone.yaml does not exist" in examined("guide.match=~/gone.yaml")["guide"].detail


def test_a_server_that_does_not_answer_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert examined()["Prefect server"].detail == "http://127.0.0.1:9/api does not answer: Connection refused"
