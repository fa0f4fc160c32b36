"""The public names: which there are, that each has a docstring whose example runs, and that none costs an import."""

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import dct_augment

CLASSES = (
    "ClassTokenTrainer",
    "Config",
    "DctAugmentError",
    "Mixture",
    "RealImages",
    "Run",
    "SyntheticImages",
)
FUNCTIONS = (
    "add_class_tokens",
    "export_classifier",
    "export_images",
    "few_shot",
    "load_classifier",
    "load_config",
    "load_dataset",
    "load_text_to_image",
    "write_photos",
)


def test_these_are_the_public_names() -> None:
    assert dct_augment.__all__ == sorted({*CLASSES, *FUNCTIONS})
    assert set(dct_augment.__all__) <= set(dir(dct_augment))


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, dct_augment; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "PIL", "pydantic", "diffusers", "prefect"} & set(result.stdout.split())


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="no attribute 'train'; it has: ClassTokenTrainer, Config"):
        _ = dct_augment.train


def test_the_names_that_type_checkers_see_are_those_that_are_imported() -> None:
    text = Path(dct_augment.__file__).read_text(encoding="utf-8")
    for name, place in dct_augment._PLACES.items():
        module, _, attribute = place.partition(":")
        lines = [line for line in text.splitlines() if line.startswith(f"    from dct_augment.{module} import ")]
        stated = {part.strip() for line in lines for part in line.partition(" import ")[2].split(",")}
        assert (name if name == attribute else f"{attribute} as {name}") in stated


@pytest.mark.parametrize("name", dct_augment.__all__)
def test_a_public_name_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(dct_augment, name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_has_arguments_result_and_example(name: str) -> None:
    function = getattr(dct_augment, name)
    docstring = inspect.getdoc(function) or ""
    for part in ("Args:", "Returns:", "Raises:", "Examples:"):
        assert f"\n{part}\n" in docstring, part
    arguments = docstring.partition("\nArgs:\n")[2].partition("\n\n")[0]
    for parameter in inspect.signature(function).parameters:
        assert f"    {parameter}: " in arguments, parameter


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in dct_augment.__all__ if name not in ("Config", "DctAugmentError")])
def test_the_example_of_a_public_name_runs(name: str, prepared_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepared_run)
    (example, *_) = doctest.DocTestFinder(recurse=False).find(getattr(dct_augment, name), name, globs={})
    assert example.examples
    lines: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=lines.append)
    assert not lines, "".join(lines)
