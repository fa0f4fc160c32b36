"""What an export leaves behind: a whole folder with a card, or nothing."""

import importlib.metadata
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from dct_augment.errors import InputError
from dct_augment.export import FORMATS, export_images
from dct_augment.export.card import _classifiers, _contexts, _token_noise
from dct_augment.export.licences import licence
from dct_augment.records import ClassInfo
from tests.export.finished_runs import finish

SLOW = """
import sys, time
from dct_augment.export import export_images
def report(progress):
    if progress.stage == "export":
        print("writing", flush=True)
        time.sleep(60)
export_images(sys.argv[1], sys.argv[2], sys.argv[3], progress=report)
"""
LITTLE_SPACE = """
import resource, sys
from dct_augment.errors import DctAugmentError
from dct_augment.export import export_images
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    export_images(sys.argv[1], sys.argv[2], sys.argv[3])
except DctAugmentError as error:
    print(type(error).__name__, error)
"""


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def card_of(folder: Path) -> DatasetCard:
    return DatasetCard((folder / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("format", FORMATS)
def test_the_card_is_one_that_the_hub_reads(run: Path, tmp_path: Path, format: str) -> None:
    export_images(run, tmp_path / "out", format)
    data: dict[str, Any] = card_of(tmp_path / "out").data.to_dict()
    assert "synthetic" in data["tags"]
    assert data["task_categories"] == ["image-classification"]
    assert data["size_categories"] == ["n<1K"]
    assert data["configs"][0]["config_name"] == "default"


def test_the_card_says_what_made_the_images(run: Path, tmp_path: Path) -> None:
    export_images([run], tmp_path / "out", "huggingface", classes=["gull"], filter_confidence=0.25)
    text = card_of(tmp_path / "out").text
    for part in (
        "3 images of 1 class.",
        "All of them are synthetic",
        "- data set: folder data/birds",
        "- text-to-image model: `pocket`",
        "- licence of the model: apache-2.0",
        "- guide: `pocket/birds-guide`",
        "- judge: `pocket/birds-judge`",
        "`a photo of a {token} {class}{context}`",
        "5 steps, 3.0 guidance scale",
        "gives the class 0.25 or more",
        f"| 0 | gull | gull | 3 | `a photo of a <dct-birds-gull> gull` | `{3:064x}` |",
        f"dct-augment {importlib.metadata.version('dct-augment')}",
        "dct-augment export run --format huggingface --to out --classes gull --filter 0.25",
        "the guide recognises 100.0% of them",
        "![One row a class](grid.png)",
    ):
        assert part in text, part


def test_a_card_says_what_a_guide_of_photos_is_made_on() -> None:
    members = [{"name": "few_shot", "backbone": "local-dir:/home/somebody/net"}, {"name": "pocket/birds-guide"}]
    assert _classifiers(members) == "`few_shot` on `local-dir:net` + `pocket/birds-guide`"


def test_a_card_says_that_images_have_noise_on_their_tokens() -> None:
    assert _token_noise({"token_noise": 0.1}) == [
        "- noise on class tokens: 0.1 of their length, another one for each image"
    ]
    assert _token_noise({}) == []


def test_a_card_lists_the_texts_of_contexts_that_are_set_class_by_class() -> None:
    assert _contexts({"crane": ["at sea", ""], "gull": ["at sea", "in fog"]}) == ["at sea", "in fog"]
    assert _contexts(["", "at sea"]) == ["at sea"]
    assert _contexts(None) == []


def test_the_card_says_what_is_left_out_and_why(tmp_path: Path) -> None:
    root = finish(tmp_path / "run", wrong=["gull-000000"], without_token=["ca-bird"])
    export_images(root, tmp_path / "out", filter_confidence=0.5)
    text = card_of(tmp_path / "out").text
    assert "- left out: 1, taken for another class" in text
    assert "- left out: 3, made with the plain prompt, as the class has no certified token" in text
    assert "- classes of which no image is left: Çà bird" in text


def test_the_card_tells_no_folders_of_this_machine(tmp_path: Path) -> None:
    root = finish(tmp_path / "run", dataset="/home/somebody/birds", guide="local-dir:/home/somebody/guide")
    export_images(root, tmp_path / "out", "huggingface")
    for name in ("README.md", "export.json"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "folder birds" in text
        assert "somebody" not in text
        assert str(tmp_path) not in text
    assert "- guide: `local-dir:guide`" in card_of(tmp_path / "out").text


def test_names_that_yaml_and_tables_could_misread_come_back_whole(tmp_path: Path) -> None:
    names = ("no", "1", "a: b | <c>")
    classes = tuple(ClassInfo(place, name, f"slug-{place}") for place, name in enumerate(names))
    export_images(finish(tmp_path / "run", classes=classes), tmp_path / "out", "huggingface")
    card = card_of(tmp_path / "out")
    features = card.data.to_dict()["dataset_info"]["features"]
    (label,) = (feature["dtype"]["class_label"]["names"] for feature in features if feature["name"] == "label")
    assert tuple(label.values()) == names
    assert r"| 2 | a: b \| \<c> |" in card.text


def test_the_picture_grid_has_a_row_a_class(run: Path, tmp_path: Path) -> None:
    export_images(run, tmp_path / "out")
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.height == 3 * 100 + 4
        assert grid.width == 160 + 3 * 100
        red, _, blue = np.array(grid)[4 + 48 + 200, 160 + 48]
    assert red > 150 > blue  # the third folder is that of the song sparrow, which is red


def test_the_picture_grid_is_capped(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dct_augment.export.grid.MOST_CLASSES", 2)
    monkeypatch.setattr("dct_augment.export.grid.IMAGES_OF_A_CLASS", 1)
    export_images(run, tmp_path / "out")
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert (grid.width, grid.height) == (260, 204)
    assert "One row a class, the first 2 classes" in card_of(tmp_path / "out").text


def test_the_licence_is_read_from_the_card_of_a_local_model(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n# A model\n")
    assert licence(str(tmp_path)) == "creativeml-openrail-m"
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: my-licence\n---\n")
    assert licence(str(tmp_path)) == "my-licence"


@pytest.mark.parametrize("card", [None, "no metadata", "---\nlicense: [\n---\n", "---\n- a list\n---\n"])
def test_a_model_whose_card_says_nothing_has_no_known_licence(tmp_path: Path, card: str | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence(str(tmp_path)) == ""


@pytest.mark.parametrize("name", ["nobody/no-such-model-here", "no name / at all", "gone/away/far"])
def test_a_model_that_is_not_here_has_no_known_licence(name: str) -> None:
    assert licence(name) == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "tfrecord"}, "'tfrecord' is unknown; choose one of: imagefolder, huggingface"),
        ({"filter_confidence": 50}, "--filter 50 is no confidence; give a number from 0 to 1"),
        ({"shared_names": "join"}, "'join' is unknown; choose one of: merge, separate"),
        ({"classes": []}, "no class given"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_cannot_be_are_refused(run: Path, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        export_images(run, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_becomes_the_export(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_images(run, tmp_path / "out")
    assert listing(tmp_path / "out") == ["README.md", "classes.txt", "export.json", "grid.png", "images.csv", "train"]


def test_an_export_is_replaced_only_on_demand(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_images(run, out)
    with pytest.raises(InputError, match="is an export already; give another folder, or --overwrite"):
        export_images(run, out, "parquet")
    export_images(run, out, "parquet", overwrite=True)
    assert json.loads((out / "export.json").read_text())["format"] == "parquet"
    assert not (out / "train").exists()
    assert listing(tmp_path) == ["out", "run"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_export_is_never_replaced(run: Path, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty, and it is no export"):
        export_images(run, tmp_path / "out", overwrite=overwrite)
    with pytest.raises(InputError, match="is no export"):
        export_images(run, run, overwrite=overwrite)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_an_export_with_files_of_the_user_is_not_replaced(run: Path, tmp_path: Path) -> None:
    export_images(run, tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'mine\.txt', which no export wrote"):
        export_images(run, tmp_path / "out", overwrite=True)


@pytest.mark.parametrize(
    ("format", "folder"), [("imagefolder", "train/gull"), ("csv", "images/gull"), ("huggingface", "data")]
)
def test_an_export_with_a_picture_of_the_user_in_its_folders_is_not_replaced(
    run: Path, tmp_path: Path, format: str, folder: str
) -> None:
    export_images(run, tmp_path / "out", format)
    (tmp_path / "out" / folder / "mine.png").write_text("mine")
    with pytest.raises(InputError, match=rf"holds '{folder}/mine\.png', which no export wrote"):
        export_images(run, tmp_path / "out", "parquet", overwrite=True)
    (tmp_path / "out" / folder / "mine.png").unlink()
    export_images(run, tmp_path / "out", "parquet", overwrite=True)


def test_a_file_in_the_place_of_the_folder_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        export_images(run, tmp_path / "out", overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "an export"])
def test_a_killed_export_leaves_nothing_half_and_the_next_one_clears_up(run: Path, tmp_path: Path, before: str) -> None:
    out = tmp_path / "there" / "out"
    if before == "an export":
        export_images(run, out, "csv")
    command = [sys.executable, "-c", SLOW.replace("progress=report", "progress=report, overwrite=True")]
    with subprocess.Popen([*command, str(run), str(out), "imagefolder"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    if before == "nothing":
        assert not out.exists()
    else:
        assert "labels.csv" in listing(out)
    assert len(list(out.parent.glob(".out.*.partial"))) == 1
    export_images(run, out, "parquet", overwrite=True)
    assert listing(out.parent) == ["out"]


@pytest.mark.slow
def test_an_export_leaves_that_of_another_process_alone(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "there" / "out"
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, str(run), str(out), "csv"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "writing\n"
        export_images(run, out, "parquet")
        partial = list(out.parent.glob(".out.*.partial"))
        process.kill()
    assert len(partial) == 1


@pytest.mark.slow
@pytest.mark.parametrize("format", ["huggingface", "webdataset", "imagefolder"])
def test_a_disk_that_takes_no_more_is_one_message_and_leaves_nothing(run: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "there" / "out"
    command = [sys.executable, "-c", LITTLE_SPACE, str(run), str(out), format]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"InputError --to {out} cannot be written: ")
    assert "Nothing was left there" in done.stdout
    assert list(out.parent.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_message(run: Path) -> None:
    with pytest.raises(InputError, match=r"/proc/out cannot be written: .*give a folder that can be written"):
        export_images(run, "/proc/out")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    import tracemalloc

    peaks = []
    for per_class in (20, 200):
        root = finish(tmp_path / f"run{per_class}", per_class=per_class, shard_size=30)
        export_images(root, tmp_path / f"warm{per_class}", "webdataset")
        tracemalloc.start()
        export_images(root, tmp_path / f"out{per_class}", "webdataset")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
