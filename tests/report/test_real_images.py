"""The section of real images: what the look at a data set found."""

import shutil
from pathlib import Path
from typing import Any

from dct_augment import config, datasets
from dct_augment.report.real_images import GROUPS, load_section
from tests.datasets.photographs import photograph_tree, save
from tests.report.pages import ODD, Page, empty, thumbnail_images


def section(root: Path, folder: Path, **settings: Any) -> Any:
    data = {"name": "x", "guide": {"name": "pocket/birds-guide"}}
    loaded = config.validate(data | {"dataset": {"name": "folder", "path": str(root), **settings}})
    dataset = datasets.load(loaded.dataset)
    return load_section(datasets.look(dataset, loaded.dataset, folder).as_json(), dataset)


def test_duplicates_are_shown_side_by_side_and_unreadable_images_with_their_reason(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    save(root / "train" / "flower" / "copy.jpg", 5, quality=80)
    (root / "train" / "china" / f"{ODD.replace('/', '')}.png").write_bytes(b"no picture")
    summary, text = empty(tmp_path, real_images=section(root, tmp_path / "look", duplicates="drop"))
    numbers = summary["real_images"]
    assert numbers["duplicates"] == {
        "setting": "drop",
        "searched": True,
        "exact": 0,
        "near": 1,
        "across_splits": 1,
        "across_classes": 0,
        "left_out": 1,
    }
    assert numbers["unreadable"] == 1
    page = Page(text)
    assert "Near, across splits : train train/flower/copy.jpg (flower) left out, val val/flower/05.png" in page.text
    assert "it is no picture of a known format" in page.text
    (row,) = thumbnail_images(page)
    assert row.width > 2 * 100
    assert "onclick" not in str(page.tags)


def test_many_groups_are_cut_and_the_page_says_so(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    for path in sorted(root.rglob("*.png")):
        shutil.copy(path, path.with_name("copy-" + path.name))
    summary, text = empty(tmp_path, real_images=section(root, tmp_path / "look"))
    assert summary["real_images"]["duplicates"]["exact"] == 24
    assert len(summary["real_images"]["groups"]) == GROUPS
    assert f"The page shows {GROUPS} groups" in Page(text).text


def test_without_a_look_there_is_no_such_section(tmp_path: Path) -> None:
    summary, text = empty(tmp_path)
    assert summary["real_images"] is None
    assert "real-images" not in text
