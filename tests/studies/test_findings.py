"""Findings of a study: the best real-only row of other draws, claims as one family, and what could be seen."""

import pandas as pd
import pytest

from dct_augment.config.studies import Claim, Study
from dct_augment.studies.findings import best_on_other_draws, detectable_effect, find, holm, three_decimals
from dct_augment.studies.plan import Cell
from dct_augment.studies.running import markdown

CELL = Cell("birds", "default", 5)


def trials(accuracies: dict[str, list[float]], validation: dict[str, list[float]] | None = None) -> pd.DataFrame:
    rows = []
    for row, values in accuracies.items():
        for seed, value in enumerate(values):
            val = validation[row][seed] if validation else float("nan")
            rows.append(("birds", "default", 5, row, 100 + seed, value, val))
    return pd.DataFrame(rows, columns=["dataset", "recipe", "shots", "row", "seed", "accuracy", "val_accuracy"])


def test_holm_multiplies_the_smallest_p_by_the_family_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_best_real_row_of_a_draw_is_chosen_by_the_validation_of_the_others() -> None:
    test = pd.DataFrame({"real": [0.9, 0.1, 0.2], "strong": [0.5, 0.6, 0.7]})
    validation = pd.DataFrame({"real": [0.0, 0.9, 0.9], "strong": [0.8, 0.5, 0.5]})
    # Draw 0: the others prefer real (.9 to .5); draws 1 and 2: real has .45, strong .65.
    assert best_on_other_draws(test, validation, ["real", "strong"]).tolist() == [0.9, 0.6, 0.7]


def test_without_validation_the_test_of_the_other_draws_chooses() -> None:
    test = pd.DataFrame({"real": [0.9, 0.1, 0.9], "strong": [0.5, 0.6, 0.7]})
    none = pd.DataFrame({"real": [float("nan")] * 3, "strong": [float("nan")] * 3})
    assert best_on_other_draws(test, none, ["real", "strong"]).tolist() == [0.5, 0.1, 0.7]


def test_one_draw_has_no_other_one_to_choose_by() -> None:
    test = pd.DataFrame({"real": [0.9]})
    assert best_on_other_draws(test, test, ["real"]).empty


def test_a_claim_is_paired_by_draw_and_its_p_value_is_exact() -> None:
    table = trials({"real": [0.5, 0.6, 0.4, 0.5, 0.6], "tokens": [0.6, 0.7, 0.5, 0.6, 0.7]})
    (found,) = find(table, {CELL: ["real", "tokens"]}, ["real"], [Claim(row="tokens")]).claims
    assert found.difference.mean == pytest.approx(0.1)
    assert found.p_value == pytest.approx(2 / 2**5)
    assert found.holm_p == found.p_value


def test_a_row_without_trials_is_named() -> None:
    findings = find(trials({"real": [0.5, 0.6]}), {CELL: ["real", "tokens"]}, ["real"], [Claim(row="tokens")])
    assert findings.missing == ("birds, default, 5 shots: tokens",)
    assert findings.claims == ()
    assert [row.row for row in findings.rows] == ["real"]


def test_the_detectable_effect_shrinks_with_the_draws() -> None:
    few, many = [0.0, 0.1, 0.05, 0.02], [0.0, 0.1, 0.05, 0.02] * 4
    assert detectable_effect(many) < detectable_effect(few) / 2
    # Four draws, sd .0435, standard error .0217; t(3) quantiles 3.182 and 0.978.
    assert detectable_effect(few) == pytest.approx(0.0217 * (3.182 + 0.978), rel=0.01)


def test_draws_for_tuning_are_compared_by_their_validation_photos() -> None:
    accuracies = {"real": [0.5, 0.6], "tokens": [0.1, 0.2]}
    validation = {"real": [0.4, 0.5], "tokens": [0.6, 0.7]}
    table = trials(accuracies, validation)
    findings = find(table, {CELL: ["real", "tokens"]}, ["real"], [Claim(row="tokens")], "validation")
    assert [row.accuracy.mean for row in findings.rows] == pytest.approx([0.45, 0.65])
    assert findings.claims[0].difference.mean == pytest.approx(0.2)


def test_a_claim_is_made_at_its_shots_and_with_its_recipes_alone() -> None:
    table = trials({"real": [0.5, 0.6, 0.4], "tokens": [0.6, 0.7, 0.5]})
    rows = {CELL: ["real", "tokens"]}

    def made(**places: object) -> int:
        return len(find(table, rows, ["real"], [Claim.model_validate({"row": "tokens"} | places)]).claims)

    assert made() == made(shots=[5, 1]) == made(recipes=["default"]) == 1
    assert made(shots=[1]) == made(recipes=["other"]) == 0


def test_a_claim_with_a_margin_is_that_a_row_is_not_worse_by_as_much() -> None:
    table = trials({"real": [0.5, 0.6, 0.4, 0.5, 0.6], "tokens": [0.495, 0.595, 0.395, 0.495, 0.595]})
    rows, claims = {CELL: ["real", "tokens"]}, [Claim(row="tokens", margin=0.01), Claim(row="tokens", margin=0.005)]
    within, at_the_limit = find(table, rows, ["real"], claims).claims
    assert within.claim.title == "`tokens` - `best_real` > -1 points"
    assert within.difference.mean == pytest.approx(-0.005)
    assert within.p_value == pytest.approx(2 / 2**5)
    assert at_the_limit.p_value == 1.0


def test_the_accuracy_of_one_draw_has_no_interval() -> None:
    study = Study.model_validate(
        {
            "question": "?",
            "datasets": {"birds": {"config": "pocket"}},
            "shots": [5],
            "draws": {"first": 0, "count": 2},
            "tuning": {"first": 9, "count": 2},
            "rows": {"real": {"arm": "real"}, "tokens": {"arm": "class_token"}},
        }
    )
    lines = markdown(study, find(trials({"real": [0.5]}), {CELL: ["real"]}, ["real"], []))
    assert "| `real` | 50.0 | - |" in lines


def test_a_claim_about_a_group_is_tested_on_its_classes_alone() -> None:
    table = trials({"real": [0.5, 0.6, 0.4, 0.5, 0.6], "need": [0.5, 0.6, 0.4, 0.5, 0.6]})
    table["accuracy_tail"] = [0.1, 0.2, 0.1, 0.3, 0.1, 0.4, 0.5, 0.4, 0.6, 0.4]
    claims = [Claim(row="need"), Claim(row="need", group="tail")]
    findings = find(table, {CELL: ["real", "need"]}, ["real"], claims)
    whole, tail = findings.claims
    assert (whole.difference.mean, whole.p_value) == (0, 1)
    assert tail.difference.mean == pytest.approx(0.3)
    assert tail.p_value == pytest.approx(2 / 2**5)
    assert [row.groups["tail"].mean for row in findings.rows] == pytest.approx([0.16, 0.46])
    study = Study.model_validate(STUDY_WITH_GROUPS)
    text = "\n".join(markdown(study, findings))
    assert "| birds, default, 5 shots | test accuracy, % | points over the best real-only row | tail |" in text
    assert "| `need` - `best_real`, tail | birds, default, 5 shots | +30.0" in text
    chosen_by = find(table.assign(val_accuracy=0.5), {CELL: ["real", "need"]}, ["real"], claims, "validation")
    assert chosen_by.rows[0].groups == {}


STUDY_WITH_GROUPS = {
    "question": "?",
    "datasets": {"birds": {"config": "pocket"}},
    "shots": [5],
    "draws": {"first": 100, "count": 5},
    "tuning": {"first": 1000, "count": 2},
    "rows": {"real": {"arm": "real"}, "need": {"arm": "class_token"}},
    "groups": {"tail": {"birds": ["crane"]}},
    "claims": [{"row": "need", "group": "tail"}],
}


def test_a_claim_names_a_group_of_the_study_and_a_group_its_data_sets() -> None:
    with pytest.raises(ValueError, match="claims name head, which is no group; groups: tail"):
        Study.model_validate({**STUDY_WITH_GROUPS, "claims": [{"row": "need", "group": "head"}]})
    with pytest.raises(ValueError, match="groups name cats, no data set; data sets: birds"):
        Study.model_validate({**STUDY_WITH_GROUPS, "groups": {"tail": {"cats": ["crane"]}}})


def test_a_p_value_that_is_too_small_to_be_told_is_not_called_nothing() -> None:
    assert [three_decimals(p, "= ") for p in (0.03125, 0.001, 0.0009, 1.0)] == [
        "= 0.031",
        "= 0.001",
        "< 0.001",
        "= 1.000",
    ]
