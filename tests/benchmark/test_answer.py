import pandas as pd
import pytest

from dct_augment.benchmark.answer import answer
from dct_augment.benchmark.choice import ArmChoice
from dct_augment.intervals import Estimate, estimate_json, proportion

NAMES = {0: "crane", 1: "kiwi"}
CHOICE = ArmChoice("real", Estimate(0.5, 0.4, 0.6, 4), "validation", optimistic=False)


def trials(draws: int) -> pd.DataFrame:
    """On each draw, three of four cranes are recognised, and one of two kiwis."""
    row = {"arm": "real", "truth": (0, 0, 0, 0, 1, 1), "predicted": (0, 0, 0, 1, 1, 0), "accuracy": 4 / 6}
    return pd.DataFrame([{**row, "seed": seed} for seed in range(draws)])


@pytest.mark.parametrize(("draws", "folds", "times"), [(1, None, 1), (5, None, 1), (2, 2, 2), (6, 2, 2)])
def test_the_interval_of_a_class_counts_each_test_image_once(draws: int, folds: int | None, times: int) -> None:
    """Draws of a holdout share their test; each repeat of two folds has the images of both."""
    numbers = answer(trials(draws), NAMES, CHOICE, None, folds)
    assert numbers["classes"] == {
        "crane": estimate_json(proportion(3 * times, 4 * times)),
        "kiwi": estimate_json(proportion(times, 2 * times)),
    }
    assert numbers["photograph_next"] == ["kiwi", "crane"]


def test_a_share_that_no_count_of_images_has_is_stated_as_it_is() -> None:
    """Two of three draws recognise the only crane."""
    row = {"arm": "real", "truth": (0,), "accuracy": 0.0}
    table = pd.DataFrame([{**row, "seed": seed, "predicted": (int(seed == 0),)} for seed in range(3)])
    crane = answer(table, NAMES, CHOICE, None)["classes"]["crane"]
    assert (crane["mean"], crane["n"]) == (0.6667, 1)
    assert crane["ci95"] == estimate_json(proportion(1, 1))["ci95"]
