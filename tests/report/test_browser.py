"""The report in a real browser: nothing from outside, no error, every image and number there, by keyboard too."""

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dct_augment.records import ImageKind
from tests.report import many
from tests.report.pages import (
    CLASSES,
    ODD,
    class_table,
    confusion_counts,
    empty,
    make,
    make_shards,
    make_tokens,
    settings,
)

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no browser: install Debian's package chromium"),
]

ARMS = {
    "real": 0.5,
    "real+strong_aug": 0.6,
    "plain_prompt": 0.55,
    "textual_inversion": 0.65,
    "class_token": 0.8,
    "class_token_few_shot_guide": 0.7,
    "class_token_filtered": 0.82,
}


def trials() -> pd.DataFrame:
    """Every arm on three seeds, two numbers of shots and two of synthetic images, with answers of its accuracy."""
    generator = np.random.default_rng(0)
    rows = []
    for arm, level in ARMS.items():
        for shots, per_class in ((5, 50), (1, 50), (5, 10)):
            if arm.startswith("real") and per_class == 10:
                continue
            for seed in range(3):
                truth = np.arange(2).repeat(20)
                predicted = np.where(generator.random(40) < level * (0.8 if shots == 1 else 1), truth, 1 - truth)
                rows.append(
                    {
                        "arm": arm,
                        "shots": shots,
                        "seed": seed,
                        "per_class": 0 if arm.startswith("real") else per_class,
                        "steps": 100,
                        "accuracy": float((truth == predicted).mean()),
                        "val_accuracy": 0.5,
                        "truth": truth,
                        "predicted": predicted,
                        "other_model": "",
                        "identity": "x",
                    }
                )
    return pd.DataFrame(rows)


def metrics() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "kind": kind,
                "metric": metric,
                "value": value,
                "low": value * 0.9,
                "high": value * 1.1,
                "n_real": 40,
                "n_synthetic": 60,
                "features": "pocket/birds-judge",
                "warning": "few images" if metric == "fid" else "",
            }
            for kind in ("plain_prompt", "class_token", "textual_inversion", "class_token_few_shot_guide")
            for metric, value in (("fid", 81.26), ("kid", 0.0312), ("judge_top1", 0.8), ("coverage", 0.713))
        ]
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A page with all its parts, of real shards and made-up tables, and its summary."""
    root = tmp_path_factory.mktemp("run")
    shards = make_shards(root)
    tokens = make_tokens(root).assign(
        verdict=["certified", "collapsed"],
        gain=0.5,
        gain_low=0.25,
        gain_high=0.75,
        judge_gain=0.4,
        judge_gain_low=0.2,
        judge_gain_high=0.6,
        diversity=30.0,
        plain_diversity=40.0,
    )
    rows = shards[ImageKind.CLASS_TOKEN].rows()
    filtered = rows[["key", "class_name"]].assign(accepted=rows["number"] > 0, reason="guide unsure")
    summary, _ = make(root, shards, tokens, trials(), metrics=metrics(), filtered=filtered, config=settings())
    return root / "report" / "index.html", summary


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class OpenPage:
    """The page as a reader sees it, with every error and request of the browser."""

    def __init__(
        self, chromium: Any, path: Path, scheme: str = "light", width: int = 1280, *, script: bool = True
    ) -> None:
        self._context = chromium.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 800}, java_script_enabled=script
        )
        self.page = self._context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> "OpenPage":
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def cells(self, table: str) -> dict[str, list[str]]:
        """The text of each row's cells by its head, from the table of that label."""
        rows = self.page.locator(f'[aria-label="{table}, table"] tbody tr')
        texts = rows.evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))")
        return {re.sub(r"\s+", " ", row[0]): [re.sub(r"\s+", " ", cell) for cell in row[1:]] for row in texts}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375, 320])
def test_page_opens_offline_without_errors_and_fits_the_window(
    chromium: Any, built: tuple[Path, dict[str, Any]], scheme: str, width: int
) -> None:
    path, _ = built
    with OpenPage(chromium, path, scheme, width) as opened:
        page = opened.page
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        assert page.locator("img").count() == 2
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        sizes = page.evaluate("[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().toJSON())")
        assert len(sizes) == 7  # arms, differences, two curves, two classes' training, gains
        assert all(40 < size["width"] <= width and size["height"] > 40 for size in sizes)
        heights = page.locator(".matrix tbody tr").evaluate_all("rows => rows.map(row => row.clientHeight)")
        assert max(heights) < 80  # names of rows are not squeezed into a column of letters
        assert (
            page.evaluate("getComputedStyle(document.body).backgroundColor")
            == {
                "light": "rgb(251, 250, 247)",
                "dark": "rgb(20, 22, 25)",
            }[scheme]
        )
        assert page.evaluate("getComputedStyle(document.querySelector('svg text')).fill") == page.evaluate(
            "getComputedStyle(document.querySelector('svg')).color"
        )
        assert opened.errors == []
        assert {url.partition(":")[0] for url in opened.requests} <= {"file", "data"}
        assert [url for url in opened.requests if url.startswith("file:")] == [path.as_uri()]


def test_long_commands_and_sentences_fit_a_phone(chromium: Any, tmp_path: Path) -> None:
    """Where a page names commands, they have the path of the run, which has no place to break it."""
    root = tmp_path / ("a-folder-with-a-long-name" * 4)
    root.mkdir()
    (root / "config.yaml").write_text("name: try")
    empty(root, config=settings(judge=None, name="a-run-with-a-long-name" * 4))
    with OpenPage(chromium, root / "report" / "index.html", width=390) as opened:
        assert opened.page.locator(".missing code").count() > 3
        assert opened.page.evaluate("document.scrollingElement.scrollWidth") == 390


def percent(share: float, digits: int = 1) -> str:
    return f"{share * 100:.{digits}f} %"


def points(difference: float) -> str:
    return f"{difference * 100:+.1f}".replace("-", "\u2212")


def test_page_shows_the_numbers_of_the_summary(chromium: Any, built: tuple[Path, dict[str, Any]]) -> None:
    path, summary = built
    bench = summary["benchmark"]
    with OpenPage(chromium, path) as opened:
        big = [re.sub(r"\s+", " ", text) for text in opened.page.locator(".big").all_inner_texts()]
        judge = summary["judge_accuracy"]
        assert f"{percent(judge['plain_prompt']['mean'])} \u2192 to {percent(judge['class_token']['mean'])}" in big
        assert f"{points(bench['paired']['class_token-real+strong_aug']['mean'])} points" in big
        arms = opened.cells("Accuracy by arm")
        assert len(arms) == len(ARMS)
        for head, cells in arms.items():
            value = bench["arms"][head.split(" ")[-1]]
            assert cells[:3:2] == [percent(value["mean"]), str(value["n"])]
        pairs = [cells for _, cells in sorted(opened.cells("Paired differences").items())]
        shown = {(cells[0], int(cells[2])) for cells in pairs}
        assert shown == {(points(pair["mean"]), pair["n"]) for pair in bench["paired"].values() if pair["n"]}
        assert {cells[5] for cells in pairs} == {"0.250"}
        gains = opened.cells("Recognition by class")
        assert [head.split(" ")[0] for head in gains] == [name.split(" ")[0] for name in summary["gains"]["judge"]]
        assert gains["crane homonym"][2].startswith(points(summary["gains"]["judge"]["crane"]))
        metric = opened.cells("Metrics of generated images")
        assert any(cells[0].endswith("81.3 73.1 to 89.4") for head, cells in metric.items() if head.startswith("FID"))
        assert opened.cells("Certificates")["crane"][:2] == ["\u2713 certified", "+50.0 +25.0 to +75.0"]
        counts = class_table(path.parent.parent).loc[ODD, ["filter.accepted", "filter.rejected"]]
        assert opened.cells("Filter")[ODD][:2] == [str(int(count)) for count in counts]
        chart = opened.page.locator("#benchmark svg").first.text_content() or ""
        assert f"{bench['arms']['class_token']['mean'] * 100:.1f} %" in chart


def test_confusion_matrices_show_their_counts(chromium: Any, built: tuple[Path, dict[str, Any]]) -> None:
    path, _ = built
    with OpenPage(chromium, path) as opened:
        for label, images in (("Class token", "generated"), ("class tokens", "test")):
            confusion = confusion_counts(path.parent.parent, images, "class_token")
            rows = opened.page.locator(f'[aria-label="{label}, confusion matrix"] tbody tr')
            texts = rows.evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.innerText))")
            assert [row[0] for row in texts] == [info.name for info in CLASSES]
            for row in texts:
                counts = [confusion[row[0]].get(info.name, 0) for info in CLASSES]
                counts += [confusion[row[0]].get("", 0)] if len(row) > 3 else []
                assert [int(cell or 0) for cell in row[1:]] == counts


def test_every_interactive_part_of_the_page_is_reached_by_tab_and_visible(
    chromium: Any, built: tuple[Path, dict[str, Any]]
) -> None:
    path, _ = built
    with OpenPage(chromium, path, width=375) as opened:
        page = opened.page
        # What is folded away is none of it, until it is opened.
        parts = page.locator("a[href], summary, [tabindex='0']")
        visible = parts.evaluate_all("parts => parts.filter(part => part.checkVisibility()).length")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the numbers"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
        reached = 1
        while page.evaluate("document.activeElement !== document.body") and reached <= visible:
            style = "getComputedStyle(document.activeElement)"
            assert page.evaluate(f"{style}.outlineStyle") == "solid", reached
            page.keyboard.press("Tab")
            reached += 1
        assert reached - 1 == visible
        page.reload()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#main"
        page.locator("#run summary").focus()
        page.keyboard.press("Enter")
        assert page.locator("#run pre").is_visible()


def test_wide_tables_scroll_inside_and_keep_the_names_of_their_rows(
    chromium: Any, built: tuple[Path, dict[str, Any]]
) -> None:
    path, _ = built
    with OpenPage(chromium, path, width=375) as opened:
        table = opened.page.locator('[aria-label="Recognition by class, table"]')
        assert table.evaluate("table => table.scrollWidth > table.clientWidth")
        table.focus()
        before = table.locator("tbody th").first.bounding_box()
        for _ in range(8):
            opened.page.keyboard.press("ArrowRight")
        for _ in range(100):  # scrolling is smooth
            if table.evaluate("table => table.scrollLeft") > 40:
                break
            opened.page.wait_for_timeout(20)
        assert table.evaluate("table => table.scrollLeft") > 40
        after = table.locator("tbody th").first.bounding_box()
        assert before is not None
        assert after is not None
        assert after["x"] == pytest.approx(before["x"], abs=1)


def test_headings_do_not_skip_a_level_and_landmarks_are_named(
    chromium: Any, built: tuple[Path, dict[str, Any]]
) -> None:
    path, summary = built
    with OpenPage(chromium, path) as opened:
        page = opened.page
        levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(heading => +heading.tagName[1])")
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert page.locator("main").count() == page.locator("header").count() == page.locator("nav").count() == 1
        assert page.evaluate("[...document.querySelectorAll('[role=group]')].every(group => group.ariaLabel)")
        assert page.evaluate("[...document.images].every(image => image.alt)")
        assert page.evaluate("document.documentElement.lang") == "en"
        titles = page.locator("main > section > h2").all_inner_texts()
        assert titles == [
            "Words",
            "Results",
            "First images of each class",
            "Benchmark",
            "Class tokens",
            "Generated images",
            "How it was made",
        ]
        assert json.loads((path.parent / "summary.json").read_text()) == summary


CLASS_COUNT = 60


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of more classes than are shown at a time, some with hostile names, some with their images beside it."""
    root = tmp_path_factory.mktemp("many")
    many.report(root, CLASS_COUNT, side=64, images=6)
    assert 0 < len(list((root / "report" / "images").iterdir())) < CLASS_COUNT - 24
    return root / "report" / "index.html"


def shown(opened: OpenPage) -> list[str]:
    """The classes whose images are shown, and where the page says it is."""
    names = opened.page.locator("#first-images article:visible h3 bdi").all_inner_texts()
    return [*names, opened.page.locator(".place").first.inner_text()]


def test_classes_are_found_without_accents_capitals_and_marks(chromium: Any, many_classes: Path) -> None:
    with OpenPage(chromium, many_classes) as opened:
        assert len(shown(opened)) == 24 + 1
        assert opened.page.locator(".scriptless").is_hidden()
        search = opened.page.get_by_label("Find a class")
        for typed, found in (
            ("GRUNE mowe", ["Gr\u00fcne_M\u00f6we", "Classes 1 to 1 of 1"]),
            ("called bird 51", ["a bird called 51", "Classes 1 to 1 of 1"]),
            ("yad DOOG", [many.HOSTILE[2].strip(), "Classes 1 to 1 of 1"]),
            ("</script>", [many.HOSTILE[0], "Classes 1 to 1 of 1"]),
            ("no such bird", ["No class has such a name."]),
        ):
            search.fill(typed)
            assert [text.strip(" \u200f") for text in shown(opened)] == [text.strip(" \u200f") for text in found]
        search.fill("")
        assert shown(opened)[-1] == "Classes 1 to 24 of 60"
        assert opened.page.title() == "try \u2013 dct-augment"
        assert opened.errors == []


def test_pages_are_turned_by_keyboard_and_load_their_images_alone(chromium: Any, many_classes: Path) -> None:
    with OpenPage(chromium, many_classes) as opened:
        page = opened.page
        assert [url for url in opened.requests if url.startswith("file:")] == [many_classes.as_uri()]
        page.get_by_label("Find a class").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Next"
        first = shown(opened)
        for place in ("Classes 25 to 48 of 60", "Classes 49 to 60 of 60", "Classes 49 to 60 of 60"):
            page.keyboard.press("Enter")
            assert shown(opened)[-1] == place
        assert page.evaluate("document.activeElement.getAttribute('aria-disabled')") == "true"
        last = shown(opened)
        assert set(first).isdisjoint(last)
        for _ in range(20):  # an image is loaded when it comes near the window
            page.mouse.wheel(0, 400)
            page.wait_for_timeout(20)
        page.locator("article:visible img").last.scroll_into_view_if_needed()
        page.wait_for_function(
            "[...document.querySelectorAll('article:not([hidden]) img')].every(image => image.naturalWidth > 0)"
        )
        loaded = {url for url in opened.requests if url.startswith("file:")} - {many_classes.as_uri()}
        assert 0 < len(loaded) <= len(last)
        assert all(url.startswith((many_classes.parent / "images").as_uri()) for url in loaded)
        page.locator("#first-images button").last.scroll_into_view_if_needed()
        page.locator("#first-images button[data-step='-1']").last.click()
        assert shown(opened)[-1] == "Classes 25 to 48 of 60"
        assert page.locator("#first-images button").first.is_visible()
        assert page.evaluate("document.querySelector('.tools').getBoundingClientRect().top >= -1")
        assert page.locator(".gone").is_hidden()
        assert opened.errors == []


def test_a_page_that_is_copied_alone_says_which_images_are_missing(
    chromium: Any, many_classes: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "index.html"
    shutil.copy(many_classes, alone)
    with OpenPage(chromium, alone) as opened:
        page = opened.page
        assert page.evaluate(
            "[...document.querySelectorAll('article:not([hidden]) img')].every(image => image.src.startsWith('data:'))"
        )
        assert page.locator(".gone").is_hidden()
        for _ in range(2):
            page.locator("button[data-step='1']").first.click()
        page.locator("article:visible img").first.scroll_into_view_if_needed()
        page.locator(".gone").wait_for(state="visible")
        assert "in the folder images, which is not beside this page" in page.locator(".gone").inner_text()


def test_without_javascript_the_first_classes_are_shown_and_the_page_says_so(chromium: Any, many_classes: Path) -> None:
    with OpenPage(chromium, many_classes, script=False) as opened:
        assert opened.page.locator("article:visible").count() == 24
        assert opened.page.locator(".tools:visible").count() == 0
        assert opened.page.get_by_text("Without JavaScript this page shows the first 24 of 60 classes").is_visible()
