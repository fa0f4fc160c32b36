"""The examples run as they are, and the notebook is stored without outputs."""

import asyncio
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs_run import SMALL

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOK = EXAMPLES / "pocket.ipynb"


def test_the_notebook_is_stored_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_FOLDER", str(tmp_path / "run"))
    monkeypatch.setenv("EXAMPLE_SETTINGS", " ".join(SMALL))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    asyncio.run(NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).async_execute())
    results = {cell["id"]: cell["outputs"] for cell in notebook.cells if cell.cell_type == "code"}
    assert "torch.Size([32, 3, 64, 64])" in results["load"][-1]["data"]["text/plain"]
    assert "image/png" in results["look"][-1]["data"]


@pytest.mark.slow
def test_the_script_trains_a_model(prepared_run: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "train_with_shards.py"), "runs/pocket/shards", "--steps", "3"]
    result = subprocess.run(command, cwd=prepared_run, capture_output=True, text=True, check=True)
    assert result.stdout.endswith("of 80 test images are recognised\n")
