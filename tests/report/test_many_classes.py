"""The report of many classes: none is left out, the page stays small, and hostile names stay names."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from dct_augment.report import class_images, page, thumbnails
from dct_augment.report.class_images import ClassSheet, ImageCount
from dct_augment.report.class_order import order_classes
from tests.report import many
from tests.report.pages import Page, class_table


def numbers(gain: float | None = None, token: float | None = None, plain: float | None = None) -> dict[str, Any]:
    accuracies = {"class_token": {"guide_accuracy": token}, "plain_prompt": {"guide_accuracy": plain}}
    return {"test_gain": gain, **accuracies}


def test_gains_and_losses_come_by_turns_from_the_largest() -> None:
    gains = {"a": 0.1, "b": -0.2, "c": 0.0, "d": None, "e": 0.3, "f": 0.2, "g": -0.1}
    by, names = order_classes({name: numbers(gain) for name, gain in gains.items()})
    assert (by, names) == ("test_gain", ["e", "b", "f", "g", "a", "c", "d"])
    assert order_classes({"a": numbers(-0.1), "b": numbers(-0.2)})[1] == ["b", "a"]


def test_without_trials_the_classes_that_the_guide_recognises_least_come_first() -> None:
    classes = {"a": numbers(token=0.9, plain=0.1), "b": numbers(), "c": numbers(plain=0.2), "d": numbers(token=0.5)}
    assert order_classes(classes) == ("guide_accuracy", ["c", "d", "a", "b"])
    assert order_classes({"b": numbers(), "a": numbers()}) == ("data_set", ["b", "a"])


def sheet() -> ClassSheet:
    return ClassSheet(
        thumbnails.render_sheet([[Image.effect_noise((64, 64), 90).convert("RGB")]]), {"x": ImageCount(1, 0)}
    )


def test_sheets_without_room_in_the_page_lie_beside_it(tmp_path: Path) -> None:
    first = sheet()
    room = len(first.sheet.uri) + 10
    shown = class_images.publish(tmp_path, [("b", first), ("c", sheet()), ("a", sheet())], room)
    assert list(shown) == ["b", "c", "a"]
    assert shown["b"].source == first.sheet.uri
    assert shown["a"].source == "images/a.webp"
    assert sorted(path.name for path in tmp_path.rglob("*.webp")) == ["a.webp", "c.webp"]
    with Image.open(tmp_path / "images" / "a.webp") as image:
        assert (image.format, image.size) == ("WEBP", (64, 64))
    class_images.publish(tmp_path, [("b", first)], room)
    assert list(tmp_path.iterdir()) == []  # what the page has room for is not there twice


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    root = tmp_path_factory.mktemp("thousand")
    return (root / "report", *many.report(root, 1000, side=64, images=1))


@pytest.mark.slow
def test_of_a_thousand_classes_each_has_its_images_and_the_page_stays_small(
    thousand: tuple[Path, dict[str, Any], str],
) -> None:
    folder, summary, text = thousand
    assert len(text.encode()) < 5_000_000 - page.CHARTS_BUDGET  # of which there are few here
    shown = Page(text)
    cards = [attributes for tag, attributes in shown.tags if tag == "article"]
    assert len(cards) == 1000
    assert ["hidden" in card for card in cards] == [False] * page.CLASSES_PER_PAGE + [True] * (
        1000 - page.CLASSES_PER_PAGE
    )
    sources = [attributes["src"] or "" for tag, attributes in shown.tags if tag == "img"]
    assert len(sources) == 1000
    embedded = [source for source in sources if source.startswith("data:image/webp;base64,")]
    assert class_images.EMBEDDED * 0.98 < sum(map(len, embedded)) <= class_images.EMBEDDED
    assert sources[: len(embedded)] == embedded  # those that are shown first
    beside = sources[len(embedded) :]
    assert {folder / source for source in beside} == set((folder / "images").iterdir())
    assert f"This file holds the images of the first {len(embedded)} of 1000 classes." in shown.text
    assert "Without JavaScript this page shows the first 24 of 1000 classes, and no search." in shown.text
    assert "The class whose test accuracy gains most from synthetic images comes first" in shown.text
    assert summary["class_order"] == {"by": "test_gain", "arm": "class_token", "baseline": "real+strong_aug"}


@pytest.mark.slow
def test_of_a_thousand_classes_the_summary_is_short_and_the_table_has_all(
    thousand: tuple[Path, dict[str, Any], str],
) -> None:
    folder, summary, _ = thousand
    written = (folder / "summary.json").read_text(encoding="utf-8")
    assert len(written) < 60_000
    assert max(map(len, written.splitlines())) < 700  # the method of an interval is a long sentence
    assert summary["schema"] == 4
    assert summary["certificates"]["fallback"]["count"] == 500
    assert len(summary["certificates"]["fallback"]["names"]) == 20
    table = class_table(folder.parent)
    assert len(table) == 1000
    gains = (table["test.class_token"] - table["test.real+strong_aug"]).round(4)
    assert (gains == table["test_gain"]).all()
    assert table["test_gain"].iloc[0] == table["test_gain"].max() > 0
    assert table["test_gain"].iloc[1] == table["test_gain"].min() < 0
    confusions = pd.read_csv(folder / "confusions.csv", keep_default_na=False)
    assert confusions.loc[confusions["images"] == "generated", "count"].sum() == 2000
    tests = confusions[confusions["images"] == "test"].groupby("arm")["count"].sum()
    assert set(tests) == {10_000}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("hostile")
    return root / "report", many.report(root, 30, side=8, images=1)[1]


def test_hostile_names_stay_names(hostile: tuple[Path, str]) -> None:
    folder, text = hostile
    shown = Page(text)
    for name in many.HOSTILE:
        assert " ".join(name.split()) in shown.text
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(scripts) == text.count("<script") == 1
    assert "bird" not in scripts[0]  # it has no names in it
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    (policy,) = [a["content"] or "" for t, a in shown.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert not [name for _, attributes in shown.tags for name in attributes if name.startswith("on")]
    ids = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[\w-]+", name or "") for name in ids if (name or "").startswith("class-"))
    table = class_table(folder.parent)
    assert set(table.index) == {info.name for info in many.many_classes(30)} - {"=1+1"} | {"'=1+1"}
    summary = (folder / "summary.json").read_text(encoding="utf-8")
    assert json.loads(summary)["classes"] == 30


def test_hostile_names_become_harmless_files(tmp_path: Path) -> None:
    classes = many.many_classes(20)
    shown = class_images.publish(tmp_path, [(info.slug, sheet()) for info in classes], 0)
    assert all(re.fullmatch(r"images/[a-z0-9-]+\.webp", one.source) for one in shown.values())
    assert len(list((tmp_path / "images").iterdir())) == 20
