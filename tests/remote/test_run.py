"""A run whose output is an S3 URL: machines without a shared folder go on with each other's work."""

import hashlib
import shutil
import signal
import time
from pathlib import Path

import pytest

from dct_augment import Run, load_config
from dct_augment import config as configuration
from dct_augment.config import Config
from dct_augment.errors import BusyRunError, ConfigError, ShardError
from dct_augment.pipeline.verify import verify
from dct_augment.records import ImageKind
from dct_augment.remote import urls
from dct_augment.remote.lease import Lease
from dct_augment.wording import settings_of
from tests.docs_run import SMALL
from tests.processes import Program
from tests.remote.machines import Machines, stored
from tests.s3_server import SECRET, S3Server


def settings(output: str | Path, per_class: int = 4) -> Config:
    """Those of the prepared run."""
    more = [*SMALL, "runner.processes=1"]
    return load_config(
        "pocket", more, classes=["crane", "kiwi"], per_class=per_class, output=Path(output), device="cpu"
    )


@pytest.fixture
def url(s3: S3Server, machines: Machines, prepared_run: Path) -> str:
    """The prepared run on a store, published by a first machine."""
    url = s3.new_url()
    machines.be("one")
    shutil.copytree(prepared_run / "runs" / "pocket", urls.mirror(url))
    machines.store("one", url).publish()
    machines.be("two")
    return url


def digests(folder: Path) -> dict[str, str]:
    """The tokens and shards of a run folder, by content."""
    paths = [*folder.glob("tokens/*.safetensors"), *folder.glob("shards/*.tar"), *folder.glob("shards/*.parquet")]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_second_machine_goes_on_with_a_run_and_makes_the_bytes_of_one_machine(
    url: str, machines: Machines, prepared_run: Path, tmp_path: Path
) -> None:
    second = Run(settings(url, per_class=5))
    root = second.config.root
    assert not list(root.rglob("*.tar"))
    second.generate()
    assert [path.name for path in root.rglob("*.tar")] == ["pocket-train-000001.tar"]
    assert second.shards[ImageKind.CLASS_TOKEN].info()["train"]["num_samples"] == 10
    machines.be("three")
    third = Run(settings(url, per_class=5))
    third.pull_images()
    assert third.config.root != root
    assert verify(third.config.root, "pocket").problems == ()
    shutil.copytree(prepared_run / "runs" / "pocket", tmp_path / "alone")
    alone = Run(settings(tmp_path / "alone", per_class=5))
    alone.generate()
    assert digests(alone.config.root) == digests(third.config.root)
    recorded = stored(url)["config.yaml"].decode()
    # A promise of SECURITY.md: of credentials nothing is written.
    held = [*stored(url).values(), *(path.read_bytes() for path in third.config.root.rglob("*") if path.is_file())]
    assert not any(SECRET.encode() in content for content in held)
    assert f"output: {url}\n" in recorded
    assert str(tmp_path) not in recorded
    assert configuration.load(f"{url}/config.yaml").url == url
    assert settings_of(third.config.root) == ["--config", f"{url}/config.yaml", "--output", url]


def test_a_machine_that_dies_gives_the_run_free_and_nothing_is_half_visible(
    url: str, s3: S3Server, machines: Machines, tmp_path: Path
) -> None:
    (tmp_path / "dying").mkdir()
    words = ["--config", f"{url}/config.yaml", "--output", url, "--per-class", "12", "--set", "runner.lease=4"]
    dying = Program.start(
        tmp_path / "dying",
        "dct_augment",
        "generate",
        *words,
        environment=s3.environment | {"DCT_AUGMENT_CACHE": str(tmp_path / "dying" / "cache")},
    )
    mark = "shards/pocket-train-000001.tar"
    dying.until(lambda: mark in urls.listing(url))
    code, printed = dying.end(signal.SIGKILL)
    assert code == -signal.SIGKILL, printed
    run = Run(settings(url, per_class=12))
    with pytest.raises(BusyRunError, match=r"the run is free 4 seconds after its last sign"):
        run.generate()
    time.sleep(5.5)
    run.generate()
    assert run.shards[ImageKind.CLASS_TOKEN].info()["train"]["num_samples"] == 24
    run.pull_images()
    assert verify(run.config.root, "pocket").problems == ()


def test_a_run_that_another_machine_holds_is_refused(url: str) -> None:
    before = stored(url)
    with Lease(url, 60).held(), pytest.raises(BusyRunError, match="is being written by another process"):
        Run(settings(url, per_class=5)).generate()
    assert stored(url) == before


def test_a_tar_on_the_store_that_is_not_the_one_of_its_rows_is_refused(url: str) -> None:
    system, root = urls.open_store(url)
    (tar,) = (path for path in stored(url) if path.endswith(".tar"))
    content = bytearray(stored(url)[tar])
    content[5000] ^= 1
    system.pipe_file(f"{root}/{tar}", bytes(content))
    run = Run(settings(url))
    with pytest.raises(ShardError, match=r"\.tar on the store is not the one that .*\.parquet speaks of; delete it"):
        run.pull_images()
    assert not list(run.config.root.rglob("*.tar"))


class TestSettings:
    def test_urls_are_written_as_users_write_them(self) -> None:
        config = load_config("pocket", output=Path("s3://bucket/run/"))
        assert config.url == "s3://bucket/run"
        assert "output: s3://bucket/run\n" in configuration.dump(config)
        assert config.output_of(config.root / "arms" / "x") == Path("s3:/bucket/run/arms/x")
        assert config.named(config.root / "shards") == "s3://bucket/run/shards"
        assert load_config("pocket", output=Path("mine")).named(Path("mine/shards")) == "mine/shards"

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("output=az://bucket/run", r"output: az:// is no store that is known; give s3://, gs://, hf:// or a path"),
            ("output=hf://datasets/user/run", "output: hf:// has no conditional writes"),
            ("tokens.init_from=s3://bucket/tokens", "tokens.init_from: no URL has a place here; give a path of this"),
        ],
    )
    def test_a_url_that_cannot_be_is_refused(self, line: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_config("pocket", [line])

    def test_a_folder_of_arms_of_this_machine_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="is a folder of this machine, and output is on a store; leave it out"):
            load_config("pocket", ["benchmark.arms_folder=arms"], output=Path("s3://bucket/run"))
