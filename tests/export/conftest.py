from pathlib import Path

import pytest

from tests.export.finished_runs import finish


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of three classes with three images each."""
    return finish(tmp_path / "run")
