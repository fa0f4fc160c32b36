"""The demo takes a user's way: photos, a configuration, a run, predictions."""

from pathlib import Path

import pytest

from dct_augment.cli.demo import _photos_to_predictions
from tests.pipeline.test_few_photos import settings_of, write_photos

pytestmark = pytest.mark.slow


def test_the_demo_uses_what_is_there_and_ends_with_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With photos and a configuration of its own, it is quick; it writes both where they are missing."""
    write_photos(tmp_path / "photos")
    settings_of(tmp_path, arms=["real", "real+strong_aug"])
    (tmp_path / "photos.yaml").rename(tmp_path / "birds.yaml")
    text = (tmp_path / "birds.yaml").read_text(encoding="utf-8")
    (tmp_path / "photos").rename(tmp_path / "given")
    (tmp_path / "photos").mkdir()
    (tmp_path / "given").rename(tmp_path / "photos" / "birds")
    (tmp_path / "birds.yaml").write_text(text.replace(str(tmp_path / "photos"), str(tmp_path / "photos" / "birds")))
    new = tmp_path / "photos" / "new-birds"
    new.mkdir()
    (new / "0.png").write_bytes((tmp_path / "photos" / "birds" / "crane" / "0.png").read_bytes())
    _photos_to_predictions(tmp_path, "birds", "pocket")
    printed = capsys.readouterr().out
    run = tmp_path / "birds"
    assert f"$ dct-augment run --config {tmp_path / 'birds.yaml'} --output {run}" in printed
    assert f"report: {run / 'report' / 'index.html'}" in printed
    assert f"$ dct-augment predict {run} {new}" in printed
    assert printed.rstrip().splitlines()[-1].split()[0] in {"crane", "kiwi", "bat"}
    assert "$ dct-augment init" not in printed
