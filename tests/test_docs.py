"""What the documentation says is true: its examples run, its links lead somewhere, its settings exist."""

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from dct_augment.config import Config
from dct_augment.diffusion import FAMILIES, supported
from tests import fenced

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
if "```bash" in README.read_text(encoding="utf-8"):  # written by the convention of `tests/fenced.py`
    PAGES.append(README)
RUNNABLE = ("bash", "python")


def title(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def is_run(page: Path) -> bool:
    return any(not block.reason and block.language in RUNNABLE for block in fenced.blocks(text_of(page)))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if is_run(page)], ids=title)
def test_the_examples_of_a_page_run(
    page: Path, prepared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    shutil.copytree(prepared_run, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    assert fenced.run_page(text_of(page), folder) > 0


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_an_example_that_is_not_run_says_why(page: Path) -> None:
    for block in fenced.blocks(text_of(page)):
        assert "no test" not in block.code
        if block.reason:
            assert block.language in RUNNABLE, f"line {block.line}: text needs no such mark"
            assert len(block.reason.split()) > 2, f"line {block.line}: say why"


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    plain = {name: set(kind.model_fields) for name, kind in sections.items() if hasattr(kind, "model_fields")}
    for section, key in re.findall(r"\b([a-z_]+)\.([a-z_]+)\b", text_of(page)):
        if section in plain and key not in ("md", "py", "yaml", "html", "json", "parquet", "safetensors"):
            assert key in plain[section], f"{section}.{key}"


@pytest.mark.parametrize("page", [*PAGES, README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=title)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = text_of(page)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists() or target.startswith("reference/") or "/reference/" in target, target
    for path in re.findall(r"`((?:dct_augment|tests|docs|examples|benchmarks|configs)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """What mkdocs calls while it builds."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_commands_has_every_command_and_warns_of_nothing(
    hooks: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    page = hooks.cli_page()
    for command in ("train", "generate", "benchmark", "run", "tokens export", "serve"):
        assert f"## dct-augment {command}\n" in page
    assert "| `--to` | path | required | folder to write into |" in page
    assert not caplog.records


def test_the_reference_of_settings_has_every_key_with_a_meaning(
    hooks: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    page = hooks.configuration_page()
    for name, field in Config.model_fields.items():
        assert f"| `{name}` |" in page
        for model in hooks._models(field.annotation):
            assert all(f"| `{name}.{key}` |" in page or name == "judge" for key in model.model_fields)
    assert "| `tokens.method.steps` | whole number, at least 1 | `2` |" in page
    assert not caplog.records


def test_readme_and_docs_name_every_family_of_models(hooks: ModuleType) -> None:
    page = hooks.models_page()
    for pipeline, family in FAMILIES.items():
        assert f"`{pipeline}`" in page
        assert family.title
    for name in ("README.md", "docs/index.md", "docs/how-to/model.md"):
        text = " ".join((ROOT / name).read_text(encoding="utf-8").split())
        assert supported() in text, f"{name} is to say: {supported()}"


def test_an_asset_from_another_host_is_found_and_a_link_is_not(hooks: ModuleType) -> None:
    assert hooks.EXTERNAL_ASSET.search('<script src="https://example.org/a.js"></script>')
    assert hooks.EXTERNAL_ASSET.search("<link rel=stylesheet href=//example.org/a.css>")
    assert not hooks.EXTERNAL_ASSET.search('<a href="https://example.org">here</a> <img src="pocket.png">')


def test_the_blocks_of_a_page_are_read() -> None:
    text = (
        "a\n\n```python\nx = 1\n```\n\n<!-- no test: takes hours -->\n```bash\nls\n```\n\n"
        '```yaml title="a.yaml"\nb: 1\n```\n'
    )
    blocks = list(fenced.blocks(text))
    assert [(block.language, block.line, block.code, block.file, block.reason) for block in blocks] == [
        ("python", 4, "x = 1\n", "", ""),
        ("bash", 9, "ls\n", "", "takes hours"),
        ("yaml", 13, "b: 1\n", "a.yaml", ""),
    ]
