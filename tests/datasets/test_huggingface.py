"""Directories of save_to_disk are read."""

from pathlib import Path

import pytest
from PIL import Image

from tests.datasets.layouts import COLOURS, assert_refused, load


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_a_hugging_face_directory_is_read_with_and_without_splits_and_class_names(
    tmp_path: Path, named: bool, split: bool
) -> None:
    hf = pytest.importorskip("datasets")
    images = [Image.new("RGB", (9, 7), COLOURS[n % 2]) for n in range(20)]
    labels = [n % 2 if named else ("sea_gull", "crane")[n % 2] for n in range(20)]
    kind = hf.ClassLabel(names=["sea_gull", "crane"]) if named else hf.Value("string")
    table = hf.Dataset.from_dict(
        {"pic": images, "label": labels}, features=hf.Features({"pic": hf.Image(), "label": kind})
    )
    (hf.DatasetDict({"train": table, "validation": table.select([0, 1])}) if split else table).save_to_disk(
        tmp_path / "t"
    )
    data = load("huggingface", tmp_path / "t", image="pic", title="birds")
    assert sorted(info.name for info in data.classes) == ["crane", "sea gull"]
    assert sum(len(data.examples(part)) for part in ("train", "val", "test")) == (22 if split else 20)
    assert not split or len(data.examples("val")) == 2
    example = data.examples("train")[0]
    gull = next(info.index for info in data.classes if info.name == "sea gull")
    assert (example.label == gull) == (example.open().convert("RGB").getpixel((0, 0)) == (255, 0, 0))
    assert_refused("no column 'image'; it has pic, label", "huggingface", tmp_path / "t")


def test_a_folder_not_written_by_save_to_disk_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    assert_refused("was not written by save_to_disk", "huggingface", tmp_path)
