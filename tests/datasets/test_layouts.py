"""Shipped configurations and the index of image files."""

from pathlib import Path

import pytest

from dct_augment import config, datasets
from dct_augment.datasets import image_files
from dct_augment.reading import ImageReader
from tests.conftest import CONFIGS
from tests.datasets.layouts import cub_tree, folder_tree, imagenet_tree, inat_tree
from tests.datasets.torchvision_trees import aircraft_tree, flowers_tree, pets_tree


def test_shipped_configs_read_their_data_sets_in_the_published_layouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trees = {
        "cub": cub_tree,
        "inat": lambda root: inat_tree(root, 2021),
        "imagenet": imagenet_tree,
        "folder": folder_tree,
        "aircraft": aircraft_tree,
        "flowers": flowers_tree,
        "pets": pets_tree,
    }
    for name, tree in trees.items():
        settings = config.load(str(CONFIGS / f"{name}.yaml"))
        path = Path(settings.dataset.path)
        root = path.parent if name == "cub" else path
        root.mkdir(parents=True, exist_ok=True)
        tree(root)
        assert len(datasets.load(settings.dataset).classes) >= 2, name


def test_an_index_of_image_files_is_small(tmp_path: Path) -> None:
    """A path costs about its own bytes, not an object."""
    rows = ((f"class-{n % 100:03d}/picture-{n:08d}.jpg", n % 100) for n in range(20_000))
    index = image_files.index(tmp_path, rows, ImageReader())
    assert index.paths.nbytes / len(index) < 60
    assert index[-1].key == "class-099/picture-00019999.jpg"
    assert [example.key for example in index[:2]] == [index[0].key, index[1].key]
