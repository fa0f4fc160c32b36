"""Data sets in files, each on a small tree in the exact layout that it is published in."""

import hashlib
import json
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dct_augment import config, datasets
from dct_augment.datasets import image_files
from dct_augment.errors import DatasetError
from dct_augment.prompts import words
from dct_augment.records import Dataset
from tests.conftest import CONFIGS

COLOURS = ("red", "green", "blue", "white")


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (12, 9)) -> None:
    """A plain picture with a mark of its own in a corner: no two are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    mark = hashlib.sha256(str(path).encode()).digest()
    image.paste(Image.frombytes("RGB", (3, 3), mark[:27]), (size[0] - 3, size[1] - 3))
    image.save(path)


def load(name: str, path: Path, **settings: Any) -> Dataset:
    data = {
        "name": "x",
        "dataset": {"name": name, "path": str(path), **settings},
        "guide": {"name": "pocket/birds-guide"},
    }
    return datasets.load(config.validate(data).dataset)


def keys(dataset: Dataset, split: str) -> set[str]:
    return {example.key for example in dataset.examples(split)}


def refused(said: str, name: str, path: Path, **settings: Any) -> None:
    with pytest.raises(DatasetError, match=said):
        load(name, path, **settings)


class TestFolder:
    """Any pictures in folders."""

    def tree(self, root: Path, count: int = 40) -> Path:
        for name, colour in zip(("001.Laughing_gull", "Çà/..".replace("/", "-"), "crane"), COLOURS, strict=False):
            for number in range(count):
                picture(root / name / f"{number:03d}.png", colour)
        (root / ".cache").mkdir()
        (root / "crane" / "notes.txt").write_text("no picture")
        (root / "crane" / ".hidden.png").write_text("no picture")
        return root

    def test_classes_become_words_and_safe_slugs(self, tmp_path: Path) -> None:
        data = load("folder", self.tree(tmp_path / "My Birds", 10))
        assert data.name == "My Birds"
        assert [info.name for info in data.classes] == ["laughing gull", "crane", "çà-.."]
        assert [info.slug for info in data.classes] == ["laughing-gull", "crane", "ca"]
        assert [info.original_name for info in data.classes] == ["001.Laughing_gull", "crane", "Çà-.."]

    def test_shares_are_held_out_and_adding_a_picture_moves_none(self, tmp_path: Path) -> None:
        root = self.tree(tmp_path / "birds")
        before = load("folder", root)
        parts = {split: keys(before, split) for split in ("train", "val", "test")}
        assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 120
        assert 5 <= len(parts["val"]) <= 25
        assert 12 <= len(parts["test"]) <= 40
        picture(root / "crane" / "aaa.png")
        after = load("folder", root)
        assert all(parts[split] <= keys(after, split) for split in parts)
        assert keys(load("folder", root, seed=1), "test") != parts["test"]
        assert not load("folder", root, test=0, val=0).examples("test")

    def test_pictures_open_and_carry_their_class(self, tmp_path: Path) -> None:
        data = load("folder", self.tree(tmp_path / "birds", 8))
        for example in data.examples("train"):
            assert example.open().convert("RGB").getpixel((0, 0)) == Image.new("RGB", (1, 1), {
                0: "red", 1: "blue", 2: "green"}[example.label]).getpixel((0, 0))  # fmt: skip

    @pytest.mark.parametrize("val", ["val", "valid", "validation"])
    def test_splits_of_its_own(self, tmp_path: Path, val: str) -> None:
        for split, count in (("train", 6), (val, 2), ("test", 3)):
            for name in ("a", "b"):
                for number in range(count):
                    picture(tmp_path / split / name / f"{number}.jpg")
        data = load("folder", tmp_path, title="letters")
        assert data.name == "letters"
        assert [len(data.examples(split)) for split in ("train", "val", "test")] == [12, 4, 6]
        picture(tmp_path / "test" / "c" / "0.jpg")
        refused("has classes that train has not: c", "folder", tmp_path)

    def test_what_cannot_be(self, tmp_path: Path) -> None:
        refused("does not exist or is no folder", "folder", tmp_path / "none")
        refused("holds no class folders", "folder", tmp_path)
        picture(tmp_path / "a" / "0.jpg")
        (tmp_path / "b").mkdir()
        refused("1 of 2 classes in .* have no training picture: 'b'", "folder", tmp_path)
        refused("hold out 1.1 of all", "folder", tmp_path, val=0.6, test=0.5)
        (tmp_path / "val").mkdir()
        refused("has val but no train folder", "folder", tmp_path)

    def test_words_from_a_file(self, tmp_path: Path) -> None:
        root, file = self.tree(tmp_path / "birds", 6), tmp_path / "words.yaml"
        file.write_text("crane: crane bird\n001.Laughing_gull: gull\n")
        assert [info.name for info in load("folder", root, words=str(file)).classes][:2] == ["gull", "crane bird"]
        assert [info.slug for info in load("folder", root, words=str(file)).classes][:2] == ["laughing-gull", "crane"]
        for text, said in (
            ("cran: x", r"no class 'cran' \(did you mean 'crane'"),
            ("[1]", "must map"),
            ("{", "cannot be read"),
        ):
            file.write_text(text)
            refused(said, "folder", root, words=str(file))

    def test_unreadable_pictures_are_replaced_in_few_shot_draws(self, tmp_path: Path) -> None:
        root = self.tree(tmp_path / "birds", 12)
        data = load("folder", root, val=0, test=0)
        first = [example.key for example in datasets.few_shot(data, 4, 0).train if example.label == 1]
        (root / first[0]).write_bytes(b"\xff\xd8 truncated")
        (root / first[1]).write_bytes((root / first[1]).read_bytes()[:40])
        again = [example.key for example in datasets.few_shot(data, 4, 0).train if example.label == 1]
        assert again[:2] == first[2:]
        assert len(again) == 4
        assert sorted(datasets.unreadable(data.examples("train"))) == sorted(first[:2])
        with pytest.raises(DatasetError, match="'crane' has 12 training images, 2 of them unreadable, but shots is 11"):
            datasets.few_shot(data, 11, 0)


@given(st.integers(1, 6), st.integers(1, 5), st.floats(1, 50), st.integers(0, 3))
def test_few_shot_is_nested_whatever_the_imbalance(shots: int, more: int, imbalance: float, seed: int) -> None:
    data = datasets.load("digits")
    small, large = (
        {example.key for example in datasets.few_shot(data, count, seed, imbalance).train}
        for count in (shots, shots + more)
    )
    assert small <= large
    counts = Counter(example.label for example in datasets.few_shot(data, shots, seed, imbalance).train)
    sizes = [counts[info.index] for info in data.classes]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (shots, max(1, round(shots / imbalance)))


class TestCub:
    """CUB-200-2011."""

    NAMES = ("001.Black_footed_Albatross", "002.Laysan_Albatross")

    def tree(self, root: Path) -> Path:
        arm_folder = root / "CUB_200_2011"
        files = [
            (f"{name}/{name[4:]}_{number:04d}.jpg", label)
            for label, name in enumerate(self.NAMES, 1)
            for number in range(8)
        ]
        for file, label in files:
            picture(arm_folder / "images" / file, COLOURS[label], (40, 30))
        lines = {
            "classes.txt": [f"{label} {name}" for label, name in enumerate(self.NAMES, 1)],
            "images.txt": [f"{number} {file}" for number, (file, _) in enumerate(files, 1)],
            "image_class_labels.txt": [f"{number} {label}" for number, (_, label) in enumerate(files, 1)],
            "train_test_split.txt": [f"{number} {int(number % 2)}" for number in range(1, 17)],
            "bounding_boxes.txt": [f"{number} 5.0 6.0 20.0 10.0" for number in range(1, 17)],
        }
        for name, text in lines.items():
            (arm_folder / name).write_text("\n".join(text) + "\n")
        return root

    @pytest.mark.parametrize("inner", ["", "CUB_200_2011"])
    def test_official_split(self, tmp_path: Path, inner: str) -> None:
        data = load("cub", self.tree(tmp_path) / inner)
        assert [info.name for info in data.classes] == ["black footed albatross", "laysan albatross"]
        assert [info.original_name for info in data.classes] == list(self.NAMES)
        assert len(data.examples("test")) == 8
        assert len(data.examples("train")) + len(data.examples("val")) == 8
        assert all(
            example.key.endswith(tuple(f"{n:04d}.jpg" for n in (1, 3, 5, 7))) for example in data.examples("test")
        )
        assert {example.open().size for example in data.examples("test")} == {(40, 30)}

    def test_boxes(self, tmp_path: Path) -> None:
        data = load("cub", self.tree(tmp_path), crop=True)
        assert {example.open().size for example in data.examples("train")} == {(20, 10)}

    def test_damage(self, tmp_path: Path) -> None:
        arm_folder = self.tree(tmp_path) / "CUB_200_2011"
        (arm_folder / "image_class_labels.txt").write_text("1 1\n")
        refused("do not agree: '3'", "cub", tmp_path)
        (arm_folder / "images.txt").write_text("one\n")
        refused(r"images.txt' is damaged", "cub", tmp_path)
        (arm_folder / "classes.txt").unlink()
        refused("lacks classes.txt; it holds .*Caltech", "cub", tmp_path)


class TestINaturalist:
    """All four years."""

    BIRDS = (("Grus grus", "Common Crane"), ("Apteryx australis", "Southern Brown Kiwi"), ("Bufo bufo", "Common Toad"))

    def tree(self, root: Path, year: int) -> Path:
        categories, images, annotations = [], [], []
        for number, (latin, common) in enumerate(self.BIRDS):
            group = "Amphibians" if latin.startswith("Bufo") else "Birds"
            one: dict[str, Any] = {"id": number, "name": latin, "supercategory": group}
            if year == 2021:
                one |= {"common_name": common, "class": "Amphibia" if group == "Amphibians" else "Aves"}
            if year in (2018, 2019):
                one["name"] = str(number)
            categories.append(one)
        for number in range(24):
            label = number % 3
            file = f"train_val{year}/{label}/{number:032x}.jpg" if year != 2021 else f"train/{label:05d}_x/{number}.jpg"
            picture(root / file, COLOURS[label])
            images.append({"id": 100 + number, "file_name": file})
            annotations.append({"id": number, "image_id": 100 + number, "category_id": label})
        for split, part in (("train", slice(0, 18)), ("val", slice(18, 24))):
            name = f"{split}{'' if year == 2021 else year}.json"
            data = {"images": images[part], "annotations": annotations[part], "categories": categories}
            (root / name).write_text(json.dumps(data))
        if year in (2018, 2019):
            real = [{"id": n, "name": latin, "class": "Aves"} for n, (latin, _) in enumerate(self.BIRDS)]
            (root / "categories.json").write_text(json.dumps(real))
        return root

    @pytest.mark.parametrize("year", [2017, 2018, 2019, 2021])
    def test_names_and_splits(self, tmp_path: Path, year: int) -> None:
        data = load("inat", self.tree(tmp_path, year), version=year)
        common = year == 2021
        assert [info.name for info in data.classes] == [pair[common].lower() for pair in self.BIRDS]
        assert data.name == f"inat{year}"
        assert len(data.examples("test")) == 6
        assert Counter(example.label for example in data.examples("test")) == {0: 2, 1: 2, 2: 2}
        assert len(data.examples("train")) + len(data.examples("val")) == 18
        assert data.examples("train")[0].open().size == (12, 9)

    def test_a_taxon_in_latin(self, tmp_path: Path) -> None:
        data = load("inat", self.tree(tmp_path, 2021), taxon="aves", language="latin")
        assert [info.name for info in data.classes] == ["grus grus", "apteryx australis"]
        assert {example.label for example in data.examples("test")} == {0, 1}
        refused("'Avess': no class is under it \\(did you mean 'Aves'", "inat", tmp_path, taxon="Avess")

    def test_train_mini(self, tmp_path: Path) -> None:
        (self.tree(tmp_path, 2021) / "train.json").rename(tmp_path / "train_mini.json")
        assert len(load("inat", tmp_path).classes) == 3

    def test_hidden_names_and_damage(self, tmp_path: Path) -> None:
        (self.tree(tmp_path, 2018) / "categories.json").unlink()
        refused("names of iNaturalist 2018 are hidden in train2018.json", "inat", tmp_path, version=2018)
        (tmp_path / "train2018.json").write_text("{}")
        refused("not a COCO-style annotation file", "inat", tmp_path, version=2018)
        refused("lacks val.json", "inat", tmp_path)


class TestImageNet:
    """Folders by WordNet id."""

    IDS = ("n02012849", "n03126707", "n03710637", "n03710721")

    def tree(self, root: Path) -> Path:
        for colour, wnid in zip(COLOURS, self.IDS, strict=True):
            for number in range(6):
                picture(root / "train" / wnid / f"{wnid}_{number}.JPEG", colour)
            picture(root / "val" / wnid / "ILSVRC2012_val_00000001.JPEG", colour)
        return root

    def test_two_cranes_and_two_maillots_are_kept_apart(self, tmp_path: Path) -> None:
        data = load("imagenet", self.tree(tmp_path))
        assert [info.name for info in data.classes] == ["crane", "crane", "maillot", "maillot"]
        assert [info.slug for info in data.classes] == ["crane", "crane-2", "maillot", "maillot-2"]
        assert tuple(info.original_name for info in data.classes) == self.IDS
        assert all(info.homonym for info in data.classes)
        assert [info.slug for info in datasets.select(data, ["n03126707"])] == ["crane-2"]
        assert len(data.examples("test")) == 4

    def test_other_folders_are_refused(self, tmp_path: Path) -> None:
        picture(self.tree(tmp_path) / "train" / "cats" / "1.jpg")
        refused("cats are no WordNet ids", "imagenet", tmp_path)

    def test_a_flat_val_folder_is_explained(self, tmp_path: Path) -> None:
        picture(tmp_path / "train" / self.IDS[0] / "1.JPEG")
        picture(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
        refused("val' has no class folders; sort its pictures", "imagenet", tmp_path)

    def test_every_class_of_imagenet_has_words(self) -> None:
        from timm.data import ImageNetInfo

        known = datasets.imagenet.words()
        assert all(known[wnid] for wnid in ImageNetInfo("imagenet-1k").label_names())
        assert known["n01440764"] == "tench"


class TestHuggingFace:
    """Directories of save_to_disk."""

    @pytest.mark.parametrize("named", [True, False])
    @pytest.mark.parametrize("split", [True, False])
    def test_tables(self, tmp_path: Path, named: bool, split: bool) -> None:
        hf = pytest.importorskip("datasets")
        pictures_ = [Image.new("RGB", (9, 7), COLOURS[n % 2]) for n in range(20)]
        labels = [n % 2 if named else ("sea_gull", "crane")[n % 2] for n in range(20)]
        kind = hf.ClassLabel(names=["sea_gull", "crane"]) if named else hf.Value("string")
        table = hf.Dataset.from_dict(
            {"pic": pictures_, "label": labels}, features=hf.Features({"pic": hf.Image(), "label": kind})
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
        refused("no column 'image'; it has pic, label", "huggingface", tmp_path / "t")

    def test_another_folder(self, tmp_path: Path) -> None:
        pytest.importorskip("datasets")
        refused("was not written by save_to_disk", "huggingface", tmp_path)


class TestWebDataset:
    """Tar shards."""

    def shard(self, path: Path, rows: list[tuple[str, int, str | None]]) -> None:
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for key, label, name in rows:
                buffer = BytesIO()
                Image.new("RGB", (8, 6), COLOURS[label]).save(buffer, "PNG")
                members = {"png": buffer.getvalue(), "cls": str(label).encode()}
                if name:
                    members["json"] = json.dumps({"class_name": name}).encode()
                for ending, content in members.items():
                    info = tarfile.TarInfo(f"{key}.{ending}")
                    info.size = len(content)
                    archive.addfile(info, BytesIO(content))

    def test_our_own(self, made: Any) -> None:
        data = load("webdataset", made.folder.path, title="again")
        assert [info.name for info in data.classes] == ["crane", "Çà bird".lower(), "gull"]
        assert sum(len(data.examples(split)) for split in ("train", "val", "test")) == 15
        assert all(example.open().size == (16, 16) for example in data.examples("train"))

    def test_foreign_ones(self, tmp_path: Path) -> None:
        rows = [(f"s{n}", n % 2, None) for n in range(10)]
        self.shard(tmp_path / "birds-train-000000.tar", rows)
        self.shard(tmp_path / "birds-val-000000.tar", rows[:4])
        refused("no name for label 0 and 1 more; put them into .*classes.txt", "webdataset", tmp_path)
        (tmp_path / "classes.txt").write_text("Sea_gull\ncrane\n")
        data = load("webdataset", tmp_path)
        assert [info.name for info in data.classes] == ["sea gull", "crane"]
        assert len(data.examples("val")) == 4
        assert len(data.examples("train")) + len(data.examples("test")) == 10

    def test_damage(self, tmp_path: Path) -> None:
        refused("holds no \\*.tar shards", "webdataset", tmp_path)
        (tmp_path / "a.tar").write_bytes(b"not a tar")
        refused("a.tar' cannot be read", "webdataset", tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("001.Black_footed_Albatross", "black footed albatross"), ("sea_gull", "sea gull"), ("SeaGull", "sea gull"),
        ("IBM", "ibm"), ("747", "747"), ("12_angry_men", "angry men"), ("  Çà  bird ", "çà bird"), ("_", "_"),
    ],
)  # fmt: skip
def test_class_names_become_words(source: str, said: str) -> None:
    assert words(source) == said


@given(st.text(min_size=1))
def test_any_name_becomes_some_words(source: str) -> None:
    assert words(source)


def test_shipped_configs_read_their_data_sets_in_the_published_layouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trees = {"cub": TestCub().tree, "inat": lambda p: TestINaturalist().tree(p, 2021), "imagenet": TestImageNet().tree,
             "folder": TestFolder().tree}  # fmt: skip
    for name, tree in trees.items():
        settings = config.load(str(CONFIGS / f"{name}.yaml"))
        path = Path(settings.dataset.path)  # type: ignore[union-attr]
        root = path.parent if name == "cub" else path
        root.mkdir(parents=True, exist_ok=True)
        tree(root)
        assert len(datasets.load(settings.dataset).classes) >= 2, name


def test_an_index_is_small(tmp_path: Path) -> None:
    """A path costs about its own bytes, not an object."""
    index = image_files.index(tmp_path, ((f"class-{n % 100:03d}/picture-{n:08d}.jpg", n % 100) for n in range(20_000)))
    assert index.paths.nbytes / len(index) < 60
    assert index[-1].key == "class-099/picture-00019999.jpg"
    assert [example.key for example in index[:2]] == [index[0].key, index[1].key]
