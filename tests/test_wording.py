"""What messages share: numbers with nouns and verbs, and the first of many names."""

from pathlib import Path
from urllib.error import URLError

import pytest

from dct_augment import wording
from dct_augment.wording import agreeing, command_of, counted, counted_of, listed, reason_of


@pytest.mark.parametrize(
    ("noun", "one", "many"),
    [
        ("image", "1 image", "1,200 images"),
        ("class", "1 class", "1,200 classes"),
        ("batch", "1 batch", "1,200 batches"),
        ("box", "1 box", "1,200 boxes"),
        ("copy", "1 copy", "1,200 copies"),
        ("key", "1 key", "1,200 keys"),
        ("group of copies", "1 group of copies", "1,200 groups of copies"),
    ],
)
def test_a_noun_agrees_with_its_number(noun: str, one: str, many: str) -> None:
    assert (counted(1, noun), counted(1200, noun)) == (one, many)


@pytest.mark.parametrize(
    ("verb", "many"),
    [
        ("is", "are"),
        ("was", "were"),
        ("has", "have"),
        ("does", "do"),
        ("cannot", "cannot"),
        ("lies", "lie"),
        ("names", "name"),
    ],
)
def test_a_verb_agrees_with_its_number(verb: str, many: str) -> None:
    assert [agreeing(number, verb) for number in (0, 1, 2)] == [many, verb, many]


def test_a_number_is_said_with_its_noun_and_verb() -> None:
    assert (counted(0, "image", "is"), counted(1, "image", "is")) == ("0 images are", "1 image is")
    assert counted(2, "tar of a run", "has") == "2 tars of a run have"


def test_a_share_has_the_noun_of_its_total_and_the_verb_of_its_part() -> None:
    assert counted_of(1, 3, "class", "has") == "1 of 3 classes has"
    assert counted_of(2, 3, "class", "has") == "2 of 3 classes have"
    assert counted_of(1, 1, "class") == "1 of 1 class"


def test_the_first_of_many_names_are_listed() -> None:
    assert (listed(["a", "b"], 2), listed(["a", "b", "c"], 2), listed([], 2)) == ("a, b", "a, b ...", "")


def test_an_error_is_said_without_the_number_of_the_system() -> None:
    assert reason_of(FileNotFoundError(2, "No such file or directory", "x.png")) == "No such file or directory"
    assert reason_of(ValueError("a damaged member")) == "a damaged member"


def test_an_error_of_the_network_is_said_in_the_words_of_its_cause() -> None:
    assert reason_of(URLError(ConnectionRefusedError(111, "Connection refused"))) == "Connection refused"
    assert reason_of(URLError("no host given")) == "<urlopen error no host given>"


def test_a_command_on_a_run_has_the_settings_of_its_last_work(tmp_path: Path) -> None:
    root = tmp_path / "my run"
    assert command_of("generate --plain", root) == "dct-augment generate --plain"
    root.mkdir()
    (root / "config.yaml").write_text("name: x")
    given = f"--config '{root}/config.yaml' --output '{root}'"
    assert command_of("generate --plain", root) == f"dct-augment generate --plain {given}"


def test_a_foreign_message_stands_inside_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wording.in_one_line(OSError("it is gone.\n Look elsewhere.. ")) == "it is gone. Look elsewhere"
    assert wording.in_one_line(ValueError()) == "ValueError"
    assert wording.reason_of(OSError("it is gone.")) == "it is gone"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in wording.what_loads_from_the_hub()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert "HF_HUB_OFFLINE" not in wording.what_loads_from_the_hub()


@pytest.mark.parametrize(
    ("count", "written"),
    [(0, "0 kB"), (26_400, "26 kB"), (999_999, "1,000 kB"), (1.24e6, "1.2 MB"), (340e6, "340 MB"), (3.44e9, "3.4 GB")],
)
def test_a_number_of_bytes_has_the_unit_that_suits(count: float, written: str) -> None:
    assert wording.size(count) == written


def test_no_sign_of_a_name_steers_the_terminal() -> None:
    assert wording.visible("a\x1b[31mred\x07\n\u202eb\tcaf\udce9") == "a\\x1b[31mred\\x07\n\\u202eb\tcaf\\udce9"
