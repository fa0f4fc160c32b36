"""Fixtures: small real things (classes, tokens, shard folders), no mocks."""

import multiprocessing
import multiprocessing.forkserver
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from dct_augment import files
from dct_augment.config import PromptsConfig
from dct_augment.generation import plan
from dct_augment.generation.plan import ShardSpec
from dct_augment.generation.shards import ShardFolder, shard_folder
from dct_augment.prompts import token_name
from dct_augment.records import ClassInfo, ClassToken, GeneratedImage, ImageKind, PlanRow
from tests import gcs_server as gcs_server_module
from tests import s3_server as s3_server_module
from tests.gcs_server import GCSServer
from tests.remote.machines import Machines
from tests.s3_server import S3Server
from tests.store_server import StoreServer

settings.register_profile("dct", deadline=None, max_examples=60)
settings.load_profile("dct")

CONFIGS = Path(__file__).parent.parent / "configs"
CLASSES = (ClassInfo(0, "crane", "crane", True), ClassInfo(1, "Çà bird", "ca-bird"), ClassInfo(2, "gull", "gull"))
COLORS = ((220, 30, 30), (30, 200, 60), (40, 60, 230))


SLOW_LIST = Path(__file__).parent / "slow.txt"
"""Tests that took long in some run of all of them, without their parameters: `make slow-list` writes it."""

_LONG, _LONG_IN_ALL = 0.3, 1.0  # seconds of one case of a test, and of all its cases
_measured: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
_long_files: set[Path] = set()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what runs share away from the user's own cache, also in the processes that tests begin."""
    os.environ["DCT_AUGMENT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@cache
def _slow_tests() -> frozenset[str]:
    return frozenset(SLOW_LIST.read_text(encoding="utf-8").splitlines())


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test as slow that is known to be; what is marked in its file takes many seconds."""
    if item.get_closest_marker("slow"):
        _long_files.add(item.path)
    if item.nodeid.partition("[")[0] in _slow_tests():
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with the longest tests first: the quick ones then fill all processes to the end."""
    items.sort(key=lambda item: item.path not in _long_files)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the list of slow tests."""
    parser.addoption("--write-slow-list", action="store_true", help=f"write {SLOW_LIST.name} by how long tests took")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up how long a case took, with what it needs."""
    _measured[report.nodeid.partition("[")[0]][report.nodeid] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the list of slow tests, if asked; the processes of xdist do not."""
    if not session.config.getoption("--write-slow-list") or hasattr(session.config, "workerinput"):
        return
    slow = [
        name for name, cases in _measured.items() if max(cases.values()) >= _LONG or sum(cases.values()) >= _LONG_IN_ALL
    ]
    SLOW_LIST.write_text("".join(f"{name}\n" for name in sorted(slow)), encoding="utf-8")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the server that processes are forked from, before a test starts one with less in it.

    Not on import: what it forks may import this module again. Not for a run of fast tests: few start a process.
    """
    if not any(item.get_closest_marker("slow") for item in session.items):
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        [
            "dct_augment.pipeline.run",
            "dct_augment.report.page",
            "dct_augment.classifiers.timm_models",
            "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
            "transformers.models.clip.modeling_clip",
        ]
    )
    multiprocessing.forkserver.ensure_running()


def speckled(label: int, seed: int) -> Image.Image:
    """A picture in the colour of its class, with noise of its own."""
    noise = np.random.default_rng(seed).integers(-20, 20, (16, 16, 3))
    return Image.fromarray((np.array(COLORS[label]) + noise).clip(0, 255).astype(np.uint8))


def drawn(row: PlanRow) -> Image.Image:
    """What stands for the generated image of a plan row."""
    return speckled(row.class_index, row.seed)


@dataclass(frozen=True)
class ShardRun:
    """A run folder with token files, to write made-up images into."""

    root: Path
    tokens: Mapping[str, ClassToken]
    identity: Mapping[str, object]
    name: str = "tiny"
    classes: tuple[ClassInfo, ...] = CLASSES

    @property
    def folder(self) -> ShardFolder:
        """The shards of class-token images."""
        return shard_folder(self.root, self.name, ImageKind.CLASS_TOKEN)

    @property
    def comparison(self) -> ShardFolder:
        """The shards of plain-prompt images."""
        return shard_folder(self.root, self.name, ImageKind.PLAIN_PROMPT)

    def rows(self, spec: ShardSpec, kind: ImageKind = ImageKind.CLASS_TOKEN) -> tuple[PlanRow, ...]:
        tokens = self.tokens if kind is ImageKind.CLASS_TOKEN else {}
        return plan.rows(spec, kind, self.classes, PromptsConfig(), tokens, seed=0)

    def write(
        self,
        spec: ShardSpec,
        kind: ImageKind = ImageKind.CLASS_TOKEN,
        image_format: str = "png",
        failed: tuple[str, ...] = (),
    ) -> None:
        images = [
            GeneratedImage(row, None, "failed", "image is not finite")
            if row.key in failed
            else GeneratedImage(row, drawn(row), guide_label=row.class_name, guide_confidence=0.9)
            for row in self.rows(spec, kind)
        ]
        shard_folder(self.root, self.name, kind).write(spec, images, self.identity, image_format)

    def draw(
        self,
        kind: ImageKind = ImageKind.CLASS_TOKEN,
        *,
        per_class: int = 5,
        shard_size: int = 4,
        image_format: str = "png",
        failed: tuple[str, ...] = (),
        classes: tuple[ClassInfo, ...] = CLASSES,
    ) -> plan.Layout:
        """Write and publish all shards that are not there yet, as the pipeline does; return the layout."""
        folder = shard_folder(self.root, self.name, kind)
        layout = plan.extend(folder.layout(), classes, per_class, shard_size)
        folder.record(layout)
        for spec in layout:
            if not folder.done(spec, self.identity):
                self.write(spec, kind, image_format, failed)
        folder.publish()
        return layout


def make_run(root: Path) -> ShardRun:
    from safetensors.numpy import save_file

    (root / "tokens").mkdir(parents=True)
    tokens = {}
    for info in CLASSES:
        path, word = root / "tokens" / f"{info.slug}.safetensors", token_name("tiny", info.slug)
        save_file({word: np.full(4, info.index, np.float32)}, path)
        tokens[info.slug] = ClassToken(word, info.slug, files.sha256(path))
    return ShardRun(root, tokens, {"schema": 1, "generation": {"seed": 0, "image_format": "png"}})


@pytest.fixture
def shard_run(tmp_path: Path) -> ShardRun:
    """An empty run folder with three classes and their tokens."""
    return make_run(tmp_path / "run")


@pytest.fixture
def made(shard_run: ShardRun) -> ShardRun:
    """A finished run: 5 images per class in 4 shards with class tokens, 2 per class in 2 shards with plain prompts."""
    shard_run.draw()
    shard_run.draw(ImageKind.PLAIN_PROMPT, per_class=2)
    return shard_run


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[str], ShardRun]:
    """Makes further run folders by name."""
    return lambda name: make_run(tmp_path / name)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server, for all tests of a session."""
    with s3_server_module.running() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, which this process and those that it begins use, too."""
    import s3fs

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # one of another test may have gone elsewhere
    return s3_server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GCSServer]:
    """A server that speaks as Google's storage does, for all tests of a session."""
    with gcs_server_module.running() as server:
        yield server


@pytest.fixture
def gcs(gcs_server: GCSServer, monkeypatch: pytest.MonkeyPatch) -> GCSServer:
    """The server, which this process and those that it begins use, too."""
    import gcsfs

    for name, value in gcs_server.environment.items():
        monkeypatch.setenv(name, value)
    gcsfs.GCSFileSystem.clear_instance_cache()
    return gcs_server


@pytest.fixture(params=["s3", "gcs"])
def server(request: pytest.FixtureRequest) -> StoreServer:
    """Each kind of store in turn."""
    server: StoreServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Machines that share a store alone, with folders of their own."""
    return Machines(tmp_path / "machines", monkeypatch)


@pytest.fixture(scope="session")
def prepared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two Pocket classes in `runs/pocket`, and photos of two others; copy it to change it."""
    from tests import docs_run

    folder = tmp_path_factory.mktemp("prepared")
    docs_run.make(folder, "crane", "kiwi")
    docs_run.write_photos(folder)
    return folder
