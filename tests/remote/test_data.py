"""Data from a store, images that training code reads from one, and exports to one."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from dct_augment import Mixture, SyntheticImages, export_images, load_config, load_dataset
from dct_augment.config import FolderDataset
from dct_augment.datasets import looking
from dct_augment.errors import InputError, StoreError
from dct_augment.generation.shards import read
from dct_augment.remote import downloads, urls
from dct_augment.remote.uploads import UNFINISHED, upload_folder
from tests.conftest import ShardRun, speckled
from tests.export.finished_runs import finish
from tests.export.hub import serving
from tests.remote.machines import Machines, stored
from tests.s3_server import S3Server


def put(folder: Path, url: str) -> str:
    """Put a folder below a URL, as users do with other tools."""
    system, root = urls.open_store(url)
    for path in folder.rglob("*"):
        if path.is_file():
            system.put_file(str(path), f"{root}/{path.relative_to(folder).as_posix()}")
    return url


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for label, name in enumerate(("crane", "gull")):
        for number in range(4):
            path = tmp_path / "birds" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            speckled(label, number).save(path)
    return tmp_path / "birds"


class TestDatasets:
    def test_a_folder_on_the_hub_is_read(self, tmp_path: Path, photos: Path) -> None:
        url, read = "hf://datasets/user/birds", "dct_augment data --set dataset.name=folder --json --set"
        with serving() as hub:
            hub.files["user/birds"] = {
                path.relative_to(photos).as_posix(): path.read_bytes() for path in photos.rglob("*.png")
            }
            hub.private["user/birds"] = False
            elsewhere = {"HF_ENDPOINT": hub.endpoint, "DCT_AUGMENT_CACHE": str(tmp_path / "cache")}

            def said(url: str) -> "subprocess.CompletedProcess[str]":
                command = [sys.executable, "-m", *read.split(), f"dataset.path={url}"]
                return subprocess.run(command, env=os.environ | elsewhere, cwd=tmp_path, capture_output=True, text=True)

            found = json.loads(said(url).stdout)
            assert [(info["name"], sum(info["counts"].values())) for info in found["classes"]] == [
                ("crane", 4),
                ("gull", 4),
            ]
            assert "hf://datasets/user/birds/gone: nothing is there that could be read" in said(f"{url}/gone").stderr
            assert "hf://datasets/user/none: there is no such repository" in said("hf://datasets/user/none").stderr

    def test_a_folder_of_pictures_is_pulled_once_and_known_again(
        self, s3: S3Server, machines: Machines, photos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machines.be("one")
        url = put(photos, s3.new_url("birds"))
        config = load_config("pocket", ["dataset.name=folder", f"dataset.path={url}", "dataset.test=0"])
        assert config.model_dump(mode="json")["dataset"]["path"] == url
        birds = load_dataset(config.dataset)
        assert (birds.name, [info.name for info in birds.classes]) == ("birds", ["crane", "gull"])
        pixels = [np.asarray(example.open()) for example in birds.examples("train")]
        monkeypatch.setattr(downloads, "bring", None)  # nothing is pulled again
        again = load_dataset(config.dataset)
        assert all((np.asarray(x.open()) == y).all() for x, y in zip(again.examples("train"), pixels, strict=True))
        assert isinstance(config.dataset, FolderDataset)
        before = looking._reading(config.dataset)
        monkeypatch.chdir(photos)
        assert looking._reading(config.dataset) == before  # what was learned of the pictures is known from anywhere

    def test_two_machines_have_the_same_name_and_times_of_the_same_data(
        self, s3: S3Server, machines: Machines, photos: Path
    ) -> None:
        url = put(photos, s3.new_url("birds"))
        folders = []
        for machine in ("one", "two"):
            machines.be(machine)
            folders.append(downloads.folder_of(url))
        assert folders[0] != folders[1]
        assert folders[0].parts[-2:] == folders[1].parts[-2:]
        for path in folders[0].rglob("*.png"):
            other = folders[1] / path.relative_to(folders[0])
            assert path.stat().st_mtime_ns == other.stat().st_mtime_ns

    def test_shards_of_a_run_are_a_data_set(self, s3: S3Server, machines: Machines, made: ShardRun) -> None:
        machines.be("one")
        url = put(made.folder.path, s3.new_url("shards"))
        config = load_config("pocket", ["dataset.name=webdataset", f"dataset.path={url}"])
        assert [info.name for info in load_dataset(config.dataset).classes] == ["crane", "çà bird", "gull"]

    def test_a_table_of_pictures_is_read_with_its_folder(self, s3: S3Server, machines: Machines, photos: Path) -> None:
        machines.be("one")
        rows = "".join(f"crane/{number}.png,crane\ngull/{number}.png,gull\n" for number in range(4))
        (photos / "table.csv").write_text(f"path,label\n{rows}")
        url = put(photos, s3.new_url("birds"))
        config = load_config("pocket", ["dataset.name=manifest", f"dataset.path={url}/table.csv", "dataset.test=0"])
        assert [info.name for info in load_dataset(config.dataset).classes] == ["crane", "gull"]

    def test_a_url_below_which_nothing_is_is_named(self, s3: S3Server, machines: Machines) -> None:
        machines.be("one")
        config = load_config("pocket", ["dataset.name=folder", f"dataset.path={s3.new_url('birds')}"])
        with pytest.raises(StoreError, match=r"birds: nothing is there that could be read; correct the URL"):
            load_dataset(config.dataset)


class TestSyntheticImages:
    def test_images_are_read_from_the_store_and_only_the_index_is_pulled(
        self, s3: S3Server, machines: Machines, made: ShardRun
    ) -> None:
        machines.be("one")
        url = put(made.folder.path, s3.new_url("shards"))
        here, there = SyntheticImages(made.folder.path), SyntheticImages(url)
        assert (there.keys, there.labels) == (here.keys, here.labels)
        for place in (0, 7, 14):
            assert there[place][0].tobytes() == here[place][0].tobytes()
        assert not list((made.root.parent / "machines").rglob("*.tar"))

    def test_a_mixture_reads_them_in_processes_of_a_loader(
        self, s3: S3Server, machines: Machines, made: ShardRun
    ) -> None:
        machines.be("one")
        there = SyntheticImages(put(made.folder.path, s3.new_url("shards")), transform=np.array)
        _ = there[0]  # the parent has asked the store, too
        mixture = Mixture(there, there, probability=0.5, length=6)
        loader: DataLoader[Any] = DataLoader(
            mixture,  # type: ignore[arg-type]
            batch_size=3,
            num_workers=2,
            multiprocessing_context="fork",
        )
        assert [tuple(images.shape) for images, _ in loader] == [(3, 16, 16, 3)] * 2

    def test_webdataset_streams_them_by_fsspec_as_the_page_says(self, s3: S3Server, made: ShardRun) -> None:
        import fsspec
        import webdataset as wds
        from webdataset.gopen import gopen_schemes

        url = put(made.folder.path, s3.new_url("shards"))
        before = dict(gopen_schemes)
        try:
            gopen_schemes["s3"] = lambda url, mode="rb", bufsize=8192: fsspec.open(url, mode).open()
            dataset = wds.WebDataset(f"{url}/tiny-train-000000.tar", shardshuffle=False).decode("pil")
            labels = [label for _, label in dataset.to_tuple("png", "cls")]
        finally:
            gopen_schemes.clear()
            gopen_schemes.update(before)
        assert labels == [label for _, label, _ in read(made.folder.path / "tiny-train-000000.tar")]

    def test_shards_of_others_without_rows_are_pulled(self, s3: S3Server, machines: Machines, made: ShardRun) -> None:
        machines.be("one")
        for parquet in made.folder.path.glob("*.parquet"):
            parquet.unlink()
        here, there = SyntheticImages(made.folder.path), SyntheticImages(put(made.folder.path, s3.new_url("shards")))
        assert there.keys == here.keys
        assert there[3][0].tobytes() == here[3][0].tobytes()


def _upload(folder: Path, url: str) -> None:
    upload_folder(folder, url, "export.json")


class TestExport:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        return finish(tmp_path / "run")

    def test_an_export_on_a_store_is_that_of_a_folder(
        self, s3: S3Server, machines: Machines, run: Path, tmp_path: Path
    ) -> None:
        machines.be("one")
        url = s3.new_url("birds")
        export_images(put(run, s3.new_url("run")), url, "imagefolder")  # the run is on a store, too
        export_images(run, tmp_path / "birds", "imagefolder")
        there, folder = stored(url), tmp_path / "birds"
        here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        assert set(there) == set(here)
        assert all(there[name] == path.read_bytes() for name, path in here.items() if name.endswith(".png"))
        with pytest.raises(InputError, match="is an export already; give another URL, or --overwrite"):
            export_images(run, url, "csv")
        export_images(run, url, "csv", overwrite=True)
        assert "labels.csv" in stored(url)
        assert not any(name.startswith("train/") for name in stored(url))
        system, root = urls.open_store(url)
        system.pipe_file(f"{root}/images/gull/mine.txt", b"mine")
        with pytest.raises(InputError, match=r"holds 'images/gull/mine\.txt', which no export wrote"):
            export_images(run, url, "csv", overwrite=True)

    def test_a_killed_upload_is_no_export_and_the_next_one_replaces_it(
        self, s3: S3Server, machines: Machines, run: Path, tmp_path: Path
    ) -> None:
        machines.be("one")
        url, folder = s3.new_url("birds"), tmp_path / "birds"
        export_images(run, folder, "imagefolder")
        process = multiprocessing.get_context("fork").Process(target=_upload, args=(folder, url))
        process.start()
        while UNFINISHED not in urls.listing(url):
            time.sleep(0.01)
        process.kill()
        process.join()
        assert "export.json" not in stored(url)
        (folder / "classes.txt").unlink()
        export_images(run, url, "parquet")
        assert {"export.json", "README.md"} <= set(stored(url))
        assert UNFINISHED not in urls.listing(url)
        assert not any(name.startswith("train/") for name in stored(url))

    def test_what_no_export_wrote_stays(self, s3: S3Server, machines: Machines, run: Path, tmp_path: Path) -> None:
        machines.be("one")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("mine")
        url = put(tmp_path / "mine", s3.new_url("birds"))
        for overwrite in (False, True):
            with pytest.raises(InputError, match="is not empty, and it is no export; give a URL that nothing is below"):
                export_images(run, url, "csv", overwrite=overwrite)
        assert stored(url) == {"notes.txt": b"mine"}
        with pytest.raises(InputError, match=re.escape("to the Hub, give --push USER/NAME")):
            export_images(run, "hf://datasets/user/birds", "csv")
