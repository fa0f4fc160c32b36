"""What `dct-augment init` finds in photos, chooses for a machine, and writes; nothing here loads torch."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dct_augment import config as configuration
from dct_augment.config import FewShotClassifierConfig, by_class
from dct_augment.datasets.naming import class_infos
from dct_augment.errors import DatasetError, InputError, ModelError
from dct_augment.pipeline.first_config import composing, findings, models, target
from dct_augment.pipeline.first_config.composing import FirstConfig, words_of
from dct_augment.pipeline.first_config.models import KNOWN, Machine, choose
from dct_augment.pipeline.first_config.photos import look_at, recognise
from dct_augment.pipeline.first_config.yaml_text import YamlSection, dump
from dct_augment.pipeline.protocol import load_dataset
from tests.datasets.photographs import photograph_tree, save

GB = 10**9
CPU = Machine(None, 2, {}, offline=False)
GPU = Machine(12 * GB, 8, {}, offline=False)
OFFLINE_GPU = Machine(12 * GB, 8, {}, offline=True)
LARGE_GPU = Machine(24 * GB, 8, {}, offline=False)
SDXL_TURBO, SD, SD_TURBO = (model.path for model in KNOWN)


def write_photos(root: Path, counts: Mapping[str, int]) -> Path:
    """Write different photos, as many of each class as it says."""
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for place in range(count):
            write_photo(root / name / f"{place}.png", number)
            number += 1
    return root


def write_photo(path: Path, number: int) -> None:
    """Write a picture that is like no other one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(number).integers(0, 255, (6, 6, 3), np.uint8)
    Image.fromarray(patches).resize((60, 60), Image.Resampling.BICUBIC).save(path)


def prepare(photos: Path, machine: Machine = CPU, model: str | None = None) -> FirstConfig:
    path = photos.parent / f"{photos.name}.yaml"
    return composing.prepare(path, look_at(photos), machine, model, "dct-augment init photos")


def written(prepared: FirstConfig) -> configuration.Config:
    prepared.write()
    return configuration.load(str(prepared.path))


def assert_refused(photos: Path, *said: str, classes: Sequence[str] | None = None) -> None:
    before = sorted(photos.parent.rglob("*"))
    with pytest.raises(DatasetError) as refused:
        look_at(photos, classes)
    for words in said:
        assert words in str(refused.value)
    assert sorted(photos.parent.rglob("*")) == before


# ------------------------------------------------------------------------------------------------------- what is found


def test_a_folder_of_five_photos_per_class_is_tested_in_five_folds(tmp_path: Path) -> None:
    prepared = prepare(write_photos(tmp_path / "photos", {"gate": 5, "petal": 5}))
    config = written(prepared)
    assert (config.name, config.dataset.name, config.dataset.path) == ("photos", "folder", tmp_path / "photos")
    assert (config.benchmark.protocol, config.benchmark.folds, config.benchmark.repeats) == ("auto", 5, 1)
    assert config.benchmark.arms == (
        "real",
        "real+strong_aug",
        "real+linear_probe",
        "plain_prompt",
        "class_token_few_shot_guide",
        "class_token",
    )
    assert config.guide == (FewShotClassifierConfig(backbone="vit_small_patch14_dinov2.lvd142m"),)
    assert config.dataset.words == {"gate": "gate", "petal": "petal"}


def test_a_quick_configuration_is_the_same_with_less_work(tmp_path: Path) -> None:
    prepared = prepare(write_photos(tmp_path / "photos", {"gate": 5, "petal": 3}), model="pocket")
    quick = dataclasses.replace(prepared, quick=True)
    config, whole = quick.config(), prepared.config()
    assert (config.benchmark.folds, config.benchmark.repeats, config.benchmark.per_class) == (2, 1, 20)
    assert (config.tokens.max_updates, config.tokens.restarts, config.generation.per_class) == (40, 1, 20)
    assert (config.model.tiny_decoder, config.metrics.features) == ("pocket", None)
    assert (config.guide, config.benchmark.arms) == (whole.guide, whole.benchmark.arms)
    assert config.downstream == whole.downstream.model_copy(update={"steps": 200, "batch_size": 16})
    assert [line.partition(":")[0] for line in findings._work(quick)] == ["work"]
    assert findings._tested(quick) == "test: cross-validation in 2 folds"
    assert findings._work(prepared)[1].startswith("cheaper: dct-augment init photos --quick --to ")


def test_the_recipe_is_the_one_that_was_tuned(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", {"gate": 5, "petal": 5})
    for model, guidance_scale, steps, shares in (
        ("pocket", 1.5, 400, {5: 0.7, 10: 0.5}),
        (SD, 7.0, 1000, {1: 0.7, 5: 0.5, 10: 0.3}),
    ):
        config = prepare(photos, GPU, model).config()
        assert config.downstream.synthetic_augmentation == "strong"
        assert config.downstream.synthetic_probability == shares
        assert config.downstream.real_images_last == 0
        assert (config.tokens.photo_weight, config.tokens.vectors, config.tokens.init_word) == (1, 4, "{class}")
        assert config.downstream.steps == steps
        assert config.generation.allow_uncertified
        assert config.sampling.guidance_scale == guidance_scale


def test_a_short_training_without_a_gpu_is_augmented_lightly(tmp_path: Path) -> None:
    config = prepare(write_photos(tmp_path / "photos", {"gate": 5, "petal": 5}), CPU, SD).config()
    assert (config.downstream.steps, config.downstream.synthetic_augmentation) == (200, "light")


def test_few_photos_with_a_test_are_all_trained_on_and_tokens_are_trained_once(tmp_path: Path) -> None:
    counts = {"train/gate": 5, "train/petal": 4, "test/gate": 3, "test/petal": 3}
    prepared = prepare(write_photos(tmp_path / "photos", counts))
    config = written(prepared)
    assert (config.dataset.val, config.benchmark.shots) == (0.0, 5)
    assert config.benchmark.arms[-1] == "class_token"
    assert "class_token_few_shot_guide" not in config.benchmark.arms
    assert (prepared.photos.overview.counts["train"], prepared.photos.overview.counts["val"]) == (9, 0)


def test_a_quick_holdout_has_fewer_draws(tmp_path: Path) -> None:
    counts = {"train/gate": 4, "train/petal": 4, "test/gate": 12, "test/petal": 12}
    photos = write_photos(tmp_path / "photos", counts)
    assert prepare(photos).config().benchmark.seeds == 5
    assert dataclasses.replace(prepare(photos), quick=True).config().benchmark.seeds == 3


def test_the_smallest_class_decides_the_folds_and_more_repeats_make_up_for_it(tmp_path: Path) -> None:
    prepared = prepare(write_photos(tmp_path / "photos", {"gate": 5, "petal": 3}))
    benchmark = written(prepared).benchmark
    assert (benchmark.folds, benchmark.repeats) == (3, 2)
    assert findings._tested(prepared) == "test: cross-validation in 3 folds ('petal' has no more photos), 2 times over"


def test_copies_and_unreadable_photos_do_not_count_for_the_folds(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", {"gate": 5, "petal": 5})
    shutil.copy(root / "gate" / "0.png", root / "gate" / "1.png")
    (root / "petal" / "0.png").write_bytes(b"no picture")
    (root / "petal" / "1.png").write_bytes(b"no picture")
    prepared = prepare(root)
    assert prepared.photos.different == {"gate": 4, "petal": 3}
    assert prepared.folds == 3
    assert findings._found(prepared).endswith("2 classes, 8 training photos, 3 to 5 each")  # copies are told below
    state = findings._state(prepared)
    assert state.startswith("2 photos cannot be read, left out: petal/0.png (")
    assert state.endswith("; 1 photo is a copy of another one")


def test_a_test_split_of_ones_own_is_the_test_even_of_one_photo_in_train(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "photos")
    for path in sorted((root / "train" / "china").iterdir())[1:]:
        path.unlink()
    prepared = prepare(root)
    config = written(prepared)
    assert (config.benchmark.shots, config.benchmark.seeds) == (6, 5)
    assert findings._tested(prepared) == "test: on the test split; trained on 6 photos of a class at most"
    assert (
        "one folder per split and class; 2 classes, 7 training photos, 1 to 6 each; 6 test photos"
        in findings._found(prepared)
    )


def test_a_photo_in_two_splits_is_left_out_of_train_by_the_configuration(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "photos")
    shutil.copy(next((root / "test" / "china").iterdir()), root / "train" / "china" / "copy.png")
    prepared = prepare(root)
    assert written(prepared).dataset.duplicates == "drop"
    assert prepared.photos.different["china"] == 6


def test_many_photos_without_a_test_split_have_one_held_out(tmp_path: Path) -> None:
    prepared = prepare(write_photos(tmp_path / "photos", {"gate": 50, "petal": 50}))
    assert findings._tested(prepared).startswith("test: on a fifth of the photos, held out; trained on 20 photos")
    assert not prepared.photos.has_test


# ------------------------------------------------------------------------------------------------------ what is refused


def test_no_folder_is_named(tmp_path: Path) -> None:
    assert_refused(tmp_path / "gone", "gone' does not exist", "one folder per class")


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    assert_refused(save(tmp_path / "photo.jpg", 0), "photo.jpg' is a file", ".csv")
    (tmp_path / "shard.tar").write_bytes(b"")
    assert_refused(tmp_path / "shard.tar", "is one tar; give the folder that holds it")


def test_an_empty_folder_and_one_without_class_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert_refused(tmp_path / "photos", "is empty. Put photos in one folder per class", "photos/crane/1.jpg")
    save(tmp_path / "photos" / "a.png", 0)
    assert_refused(tmp_path / "photos", "holds 1 picture, but no class folders")
    (tmp_path / "photos" / "labels.csv").write_text("path,label\na.png,gate\n")
    assert_refused(tmp_path / "photos", "To read the table in it: dct-augment init", "labels.csv")


def test_one_class_is_refused(tmp_path: Path) -> None:
    assert_refused(write_photos(tmp_path / "photos", {"gate": 3}), "holds one class only, 'gate'")
    root = write_photos(tmp_path / "more", {"gate": 3, "petal": 3})
    assert_refused(root, "holds one class only, 'petal'", classes=["petal"])


def test_a_class_of_one_photo_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", {"gate": 3, "petal": 3, "wall": 1})
    assert_refused(
        root,
        "1 class has one photo that can be used: 'wall'.",
        "Add a different one, or leave the class out: --classes 'gate,petal'.",
        "`dct-augment generate`",
    )
    assert look_at(root, ["gate", "petal"]).layout.dataset["classes"] == ["gate", "petal"]


def test_photos_that_are_all_copies_of_one_are_one_photo(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", {"gate": 3, "petal": 1})
    for number in (1, 2):
        shutil.copy(root / "petal" / "0.png", root / "petal" / f"{number}.png")
    assert_refused(root, "'petal' (3 files of the same photo)", "Add a different one. Images need no test")


def test_photos_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", {"gate": 2, "petal": 2, "wall": 2})
    for path in (root / "wall").iterdir():
        path.write_bytes(b"no picture")
    assert_refused(root, "1 class has no photo that can be read and trained on: 'wall'", "wall/0.png (")
    for path in root.glob("*/*"):
        path.write_bytes(b"no picture")
    assert_refused(root, "none of the photos in", "Save them as JPEG or PNG")


# ------------------------------------------------------------------------------------------------------------- layouts


def test_every_layout_is_recognised_by_its_files(tmp_path: Path) -> None:
    def made(name: str, *paths: str) -> Path:
        for path in paths:
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(b"")
        return tmp_path / name

    for path, name in (
        (made("a", "crane/1.jpg", "kiwi/1.jpg"), "folder"),
        (made("b", "train/crane/1.jpg", "test/crane/1.jpg"), "folder"),
        (made("j", "crane/1.jpg", "kiwi/1.jpg", "backup.tar", "list.parquet", "metadata.csv"), "folder"),
        (made("k", "train/crane/1.jpg", "train/x.tar"), "folder"),
        (made("c", "shards-000000.tar"), "webdataset"),
        (made("d", "train/x.tar.gz", "val/x.tar.gz"), "webdataset"),
        (made("e", "data/train-00000-of-00001.parquet"), "huggingface"),
        (made("f", "dataset_dict.json", "train/state.json"), "huggingface"),
        (made("g", "train/metadata.csv", "train/1.jpg"), "huggingface"),
        (made("h", "birds.csv.gz") / "birds.csv.gz", "manifest"),
        (made("i", "birds.parquet") / "birds.parquet", "manifest"),
    ):
        layout = recognise(path)
        assert layout.dataset == {"name": name, "path": str(path)}, path
        assert layout.title


def test_a_table_of_photos_becomes_a_configuration(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", {"gate": 3, "petal": 3})
    with (root / "birds.csv").open("w", newline="") as stream:
        rows = [(path.relative_to(root).as_posix(), path.parent.name) for path in sorted(root.glob("*/*.png"))]
        csv.writer(stream).writerows([("path", "label"), *rows])
    photos = look_at(root / "birds.csv")
    prepared = composing.prepare(tmp_path / "birds.yaml", photos, CPU, None, "dct-augment init birds.csv")
    config = written(prepared)
    assert config.dataset.name == "manifest"
    assert [info.name for info in load_dataset(config)[0].classes] == ["gate", "petal"]


# ---------------------------------------------------------------------------------------------------------- the model


def test_pocket_is_taken_where_it_knows_all_classes_and_pictures_are_small() -> None:
    for machine in (CPU, LARGE_GPU):
        assert choose(machine, ["crane", "song sparrow"], 64).path == "pocket"
        assert choose(machine, ["seven", "two"], 64).path == "pocket"
        assert choose(machine, ["crane", "kiwi"], 4000).path != "pocket"
        assert choose(machine, ["crane", "m6 hex"], 64).path != "pocket"


def test_the_model_fits_the_free_memory_and_a_cached_one_goes_first(tmp_path: Path) -> None:
    assert choose(LARGE_GPU, ["x"], 500).path == SDXL_TURBO
    assert choose(GPU, ["x"], 500).path == SD
    cached = Machine(24 * GB, 8, {SD: snapshot(tmp_path / "sd", "StableDiffusionPipeline")}, offline=True)
    chosen = choose(cached, ["x"], 500)
    assert (chosen.path, chosen.variant, chosen.dtype) == (SD, "fp16", "float16")
    assert chosen.reason == "it fits the 24 GB that are free on the GPU, and is in the Hub's cache"
    tight = choose(Machine(3 * GB, 8, {}, offline=False), ["x"], 500)
    assert tight.path == SD
    assert "only 3 GB are free" in tight.reason


def test_another_model_in_the_cache_is_taken_for_what_it_is(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "own", "StableDiffusionXLPipeline", variant=False)
    chosen = choose(Machine(24 * GB, 8, {"me/lightning-xl": folder}, offline=False), ["x"], 500)
    assert (chosen.path, chosen.family, chosen.variant) == ("me/lightning-xl", models.SDXL_TURBO, None)
    other = snapshot(tmp_path / "other", "WanPipeline")
    assert choose(Machine(24 * GB, 8, {"me/wan": other}, offline=False), ["x"], 500).path == SDXL_TURBO


def test_without_a_gpu_it_is_stable_diffusion_in_float32_and_that_is_said(tmp_path: Path) -> None:
    chosen = choose(CPU, ["x"], 500)
    assert (chosen.path, chosen.dtype) == (SD, "float32")
    assert chosen.reason == "no GPU here, and Pocket cannot draw your classes"
    large = choose(CPU, ["crane", "kiwi"], 3000)
    assert large.path == SD
    assert large.reason.endswith("Pocket knows these classes, but draws 64 x 64 pixels, and your photos are larger")
    cached = Machine(None, 2, {SD_TURBO: snapshot(tmp_path / "turbo", "StableDiffusionPipeline")}, offline=True)
    assert choose(cached, ["x"], 500).path == SD_TURBO


def test_a_requested_model_is_taken_with_what_suits_it() -> None:
    assert choose(CPU, ["x"], 500, "pocket").reason.startswith("it has never seen 'x'")
    assert choose(GPU, ["x"], 500, SD_TURBO).family is models.TURBO
    schnell = choose(OFFLINE_GPU, ["x"], 500, "someone/FLUX.1-schnell")
    assert (schnell.family, schnell.dtype) == (models.FLUX_SCHNELL, "bfloat16")
    assert choose(OFFLINE_GPU, ["x"], 500, "someone/Z-Image-Turbo").family is models.Z_IMAGE_TURBO
    assert choose(GPU, ["x"], 500, SD_TURBO).restriction == "its licence is for non-commercial use"


@pytest.mark.slow
def test_a_model_in_a_folder_is_read_and_one_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "own", "PixArtSigmaPipeline")
    assert choose(GPU, ["x"], 500, str(folder)).family is models.PIXART
    assert choose(OFFLINE_GPU, ["x"], 500, "someone/LCM_Dreamshaper").family is models.LCM
    assert choose(OFFLINE_GPU, ["x"], 500, "someone/pixart-sigma").family is models.PIXART
    with pytest.raises(ModelError, match="is no folder that diffusers saved"):
        choose(GPU, ["x"], 500, str(tmp_path))
    with pytest.raises(ModelError, match="is no folder that diffusers saved"):
        choose(GPU, ["x"], 500, "sd15")
    with pytest.raises(ModelError, match="is a WanPipeline; choose one of these: StableDiffusionPipeline"):
        choose(GPU, ["x"], 500, str(snapshot(tmp_path / "wan", "WanPipeline")))


def snapshot(folder: Path, pipeline: str, variant: bool = True) -> Path:
    """Write what a snapshot in the Hub's cache has of a pipeline, but for its weights."""
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    name = "diffusion_pytorch_model.fp16.safetensors" if variant else "diffusion_pytorch_model.safetensors"
    (folder / "unet" / name).write_bytes(b"")
    return folder


def test_settings_suit_the_model(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", {"crane": 2, "kiwi": 2})
    pocket, shipped = written(prepare(root)), configuration.load("pocket")
    assert (pocket.model.path, pocket.prompts) == ("pocket", shipped.prompts)
    assert pocket.sampling == shipped.sampling.model_copy(update={"guidance_scale": 1.5})
    assert pocket.guide == (FewShotClassifierConfig(backbone="pocket/backbone"),)
    assert (pocket.downstream.model, pocket.downstream.image_size) == ("pocket/backbone", None)
    (tmp_path / "photos.yaml").unlink()
    large, folder = written(prepare(root, GPU, SD)), configuration.load("folder")
    assert (large.model, large.prompts, large.sampling) == (folder.model, folder.prompts, folder.sampling)
    assert (large.downstream.model, large.downstream.image_size) == ("resnet50.a1_in1k", None)
    assert (large.tokens.classes_per_batch, large.generation.batch_size) == (4, 8)
    (tmp_path / "photos.yaml").unlink()
    turbo = written(prepare(root, CPU, SD_TURBO))
    assert (turbo.sampling.num_inference_steps, turbo.sampling.guidance_scale) == (2, 1.0)
    assert turbo.downstream.model == "mobilenetv3_small_100.lamb_in1k"


def test_a_folder_of_other_classes_gets_no_contexts_of_the_pocket_world(tmp_path: Path) -> None:
    config = written(prepare(write_photos(tmp_path / "photos", {"m6": 2, "kiwi": 2}), CPU, "pocket"))
    assert config.prompts.contexts == ("",)


def test_models_that_are_not_in_the_cache_are_named_while_offline(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", {"gate": 2, "petal": 2})
    backbone, classifier = "timm/vit_small_patch14_dinov2.lvd142m", "timm/mobilenetv3_small_100.lamb_in1k"
    offline = Machine(None, 2, {classifier: tmp_path}, offline=True)
    (line,) = findings._missing(prepare(root, offline))
    assert line.startswith(f"missing: {SD}, {backbone}: not in the Hub's cache, and HF_HUB_OFFLINE is set")
    everything = {SD: snapshot(tmp_path / "sd", "StableDiffusionPipeline"), backbone: tmp_path, classifier: tmp_path}
    assert findings._missing(prepare(root, Machine(None, 2, everything, offline=True))) == []
    assert findings._missing(prepare(root, offline, "pocket")) == []
    assert findings._missing(prepare(root)) == []


# ------------------------------------------------------------------------------------------------------ what is written


ODD_NAMES = [
    "no",
    "1",
    "012",
    "a: b",
    "# x",
    "- y",
    "سيارة",
    "猫",
    "🦩",
    "two\nlines",
    "'q'",
    '"',
    "null",
    "~",
    "=",
    "<<",
    "{a}",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_class_of_any_name_reads_back(name: str, tmp_path: Path) -> None:
    prepared = prepare(write_photos(tmp_path / "photos", {name: 2, "other": 2}))
    config = written(prepared)
    read = load_dataset(config)[0].classes
    assert read == prepared.photos.classes
    assert {info.original_name for info in read} == {name, "other"}
    assert config.dataset.words.keys() == {name.lower(), "other"}


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=60)


@given(st.lists(names, min_size=1, max_size=4, unique_by=lambda name: name.strip().lower()))
def test_any_names_and_words_read_back_from_a_section_with_comments(original_names: list[str]) -> None:
    infos = class_infos(original_names, None)
    words = words_of(infos)
    section = YamlSection(
        "dataset", ["A comment."], {"name": "folder", "path": "x", "words": words}, {"words": "More."}
    )
    read = by_class.parse_yaml(str(section))["dataset"]
    assert len(str(section).splitlines()) == str(section).count("\n") <= 6 + 2 * len(words)  # long keys take two lines
    assert read["words"] == words
    named = [info.name for info in class_infos(original_names, by_class.check_words(list(words.items()), "words"))]
    assert [name.strip() for name in named] == [info.name.strip() for info in infos]


def test_classes_that_differ_by_case_alone_keep_their_own_words(tmp_path: Path) -> None:
    prepared = prepare(write_photos(tmp_path / "photos", {"seaGull": 2, "seagull": 2, "petal": 2}))
    config = written(prepared)
    assert config.dataset.words == {"petal": "petal"}
    assert [info.name for info in load_dataset(config)[0].classes] == ["petal", "sea gull", "seagull"]


@given(st.recursive(st.text(max_size=80) | st.integers() | st.booleans(), lambda inner: st.lists(inner, max_size=3)))
def test_any_value_reads_back(value: object) -> None:
    assert yaml.safe_load(dump({"key": value})) == {"key": value}


def test_a_path_of_any_name_reads_back(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "no: 'é'\n#", {"gate": 2, "petal": 2})
    photos = look_at(root)
    path = target.default_path(root)
    assert path == Path("no-e.yaml")
    prepared = composing.prepare(tmp_path / path, photos, CPU, None, f"dct-augment init {root}")
    assert written(prepared).dataset.path == root


@pytest.mark.parametrize(
    ("folder", "file", "name"),
    [
        ("photos", "photos.yaml", "photos"),
        ("My birds", "My birds.yaml", "My-birds"),
        ("-x", "x.yaml", "x"),
        ("猫", "猫.yaml", "photos"),
        (".hidden", "hidden.yaml", "hidden"),
        ("v1.2", "v1.2.yaml", "v1-2"),
    ],
)
def test_file_and_run_are_called_as_the_folder(folder: str, file: str, name: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    path = target.default_path(tmp_path / folder)
    assert (str(path), target.run_name(path.stem)) == (file, name)


def test_the_words_of_many_classes_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    counts = dict.fromkeys([f"kind {number:02d} x" for number in range(51)], 2)
    prepared = prepare(write_photos(tmp_path / "photos", counts))
    config = written(prepared)
    assert config.dataset.words == tmp_path / "photos-words.yaml"
    assert len(by_class.read_words(config.dataset.words, "dataset.words")) == 51
    assert len(load_dataset(config)[0].classes) == 51


def test_nothing_is_overwritten_and_nothing_is_half_written(tmp_path: Path) -> None:
    prepared = prepare(write_photos(tmp_path / "photos", {"gate": 2, "petal": 2}))
    prepared.write()
    before = prepared.path.read_bytes()
    with pytest.raises(InputError, match=r"is there already\. Write another file: --to"):
        prepared.write()
    assert prepared.path.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "photos.yaml"}


def test_a_place_that_cannot_be_written_is_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.yaml", Path("/proc/x.yaml")):
        if path.parent == Path("/proc"):
            prepared = prepare(write_photos(tmp_path / "photos", {"gate": 2, "petal": 2}))
            elsewhere = FirstConfig(path, prepared.photos, CPU, prepared.model, "")
            with pytest.raises(InputError, match=r"cannot be written: .*--to FILE\.yaml"):
                elsewhere.write()
        else:
            with pytest.raises(InputError, match="is no folder that you may write to"):
                target.check_target(path)
    with pytest.raises(InputError, match=r"must end in .yaml"):
        target.check_target(tmp_path / "photos")


def test_each_section_says_what_it_is(tmp_path: Path) -> None:
    photos = look_at(write_photos(tmp_path / "photos", {"gate": 2, "petal": 2}))
    text = composing.prepare(Path("photos.yaml"), photos, CPU, SD_TURBO, "dct-augment init photos").text
    text = text.replace(str(tmp_path), "")
    for section in text.split("\n\n"):
        assert section.startswith("# "), section
    assert max(map(len, text.splitlines())) <= 120


def test_a_model_that_is_neither_here_nor_reachable_is_said_to_be_unknown() -> None:
    chosen = choose(OFFLINE_GPU, ["gate"], 500, "nope/nope")
    assert chosen.reason.startswith(
        "you chose it; it is unknown here: not in the Hub's cache, and HF_HUB_OFFLINE is set"
    )
    with pytest.raises(ModelError, match="'a/b/c--'"):
        choose(OFFLINE_GPU, ["gate"], 500, "a/b/c--")


def test_the_cheaper_command_names_its_file_once(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", {"gate": 2, "petal": 2})
    path, command = tmp_path / "all.yaml", f"dct-augment init photos --to {tmp_path / 'all.yaml'} --model pocket"
    prepared = composing.prepare(path, look_at(photos), CPU, "pocket", command)
    cheaper = next(line for line in findings.lines(prepared) if line.startswith("cheaper: "))
    assert cheaper.count("--to") == 1
    assert f"init photos --model pocket --quick --to {tmp_path / 'all-quick.yaml'} (" in cheaper
