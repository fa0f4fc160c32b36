from pathlib import Path

import pytest

from tests.remote.machines import Machines


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Machines with folders of their own."""
    return Machines(tmp_path / "machines", monkeypatch)
