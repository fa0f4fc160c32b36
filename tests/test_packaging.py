"""What the code imports is what the project says it needs."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dct_augment

ROOT = Path(__file__).parent.parent
OWN = ("dct_augment", "flows")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def imported(code: str) -> set[str]:
    """The top-level modules that some code imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def declared(project: Mapping[str, Any]) -> dict[str, Requirement]:
    """Every requirement, of the extras too, by the name of its distribution."""
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {canonicalize_name(need.name): need for need in map(Requirement, lines)}


def undeclared(modules: set[str], project: Mapping[str, Any]) -> list[str]:
    """The modules that no declared distribution brings; one that is not installed is undeclared as well."""
    owners: Mapping[str, Sequence[str]] = importlib.metadata.packages_distributions()
    known = set(declared(project))
    third = modules - set(sys.stdlib_module_names) - set(OWN)
    return sorted(name for name in third if not known & {canonicalize_name(one) for one in owners.get(name, ())})


def sources() -> Iterator[Path]:
    for package in OWN:
        yield from (ROOT / package).rglob("*.py")


def pins() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_import_is_declared() -> None:
    modules = set().union(*(imported(path.read_text(encoding="utf-8")) for path in sources()))
    assert {"torch", "prefect", "yaml", "PIL", "packaging"} <= modules
    assert undeclared(modules, PROJECT) == []


@pytest.mark.parametrize(
    "code", ["import click", "from click.core import Command", "def late():\n    import click", "import nowhere_at_all"]
)
def test_an_import_that_is_not_declared_is_found(code: str) -> None:
    assert undeclared(imported(code), PROJECT) == sorted(imported(code))


def test_what_is_pinned_is_what_is_needed() -> None:
    pinned, needs = pins(), declared(PROJECT)
    assert set(needs) <= set(pinned)
    wrong = [str(need) for name, need in needs.items() if not need.specifier.contains(pinned[name])]
    assert wrong == []


def test_every_upper_bound_says_why() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    bounded = [name for name, need in declared(PROJECT).items() if re.search("<|!=|==", str(need.specifier))]
    assert bounded == ["fastapi"]
    for name in bounded:
        assert re.search(rf"^# .+\n{name}==", text, re.MULTILINE), name


def test_type_checkers_of_users_find_the_types() -> None:
    for package in OWN:
        assert (ROOT / package / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_the_version_to_cite_is_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dct_augment.__version__
    assert citation["license"] == PROJECT["license"]
