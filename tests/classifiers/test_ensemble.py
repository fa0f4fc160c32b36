"""Probabilities are averaged by weight, whatever the labels of the members and their order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dct_augment.classifiers import EnsembleClassifier, Prediction
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo
from tests.classifiers.small_models import COLOURS, FixedLogits, classifier_of

NAMES = ("blue", "red", "green", "Dark_Grey", "dark grey")
BLACK = -torch.ones(1, 3, 8, 8)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.permutations(NAMES),
            st.integers(0, 3),
            st.floats(0.1, 9),
            st.lists(st.floats(-5, 5, width=32), min_size=5, max_size=5),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_an_ensemble_averages_probabilities_by_weight(vote_settings):
    votes = []
    for order, dropped, weight, logits in vote_settings:
        labels = [name for name in order if name in ("blue", "red") or NAMES.index(name) > dropped + 1]
        votes.append((labels, weight, logits[: len(labels)]))
    members = [classifier_of(FixedLogits(*logits), *labels) for labels, _, logits in votes]
    guide = EnsembleClassifier(members, [weight for _, weight, _ in votes], COLOURS)
    probabilities = guide.logits(BLACK).exp()[0]
    total = sum(weight for _, weight, _ in votes)
    for name in ("blue", "red", "green"):
        expected = sum(
            weight / total * torch.tensor(logits).softmax(0)[labels.index(name)].item()
            for labels, weight, logits in votes
            if name in labels
        )
        probability = probabilities[guide.labels.index(name)].item() if name in guide.labels else 0.0
        assert probability == pytest.approx(expected, abs=1e-5)
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    assert guide.labels[:2] == ("blue", "red")
    assert guide.targets(COLOURS[::-1]) == (1, 0)
    assert probabilities.shape == (len(guide.labels),)


def test_a_calibrated_member_votes_with_its_calibrated_probabilities():
    calibrated, other = (classifier_of(FixedLogits(*logits), "blue", "red") for logits in ((8.0, 0.0), (0.0, 1.0)))
    calibrated.temperature = 4.0
    vote = EnsembleClassifier([calibrated, other], [3, 1], COLOURS)
    of_members = torch.stack([torch.tensor([8.0, 0.0]) / 4, torch.tensor([0.0, 1.0])]).softmax(1)
    torch.testing.assert_close(vote.logits(BLACK).exp()[0], (3 * of_members[0] + of_members[1]) / 4)
    (alone,) = calibrated.predictions(BLACK, [0])
    assert alone.probability == pytest.approx(of_members[0, 0].item())


def test_many_unlikely_labels_do_not_outvote_the_likeliest_in_an_ensemble():
    """Together they are likelier than the target, which every member has first all the same."""
    member = classifier_of(FixedLogits(3.0, *[0.0] * 999), "blue", *(f"label {n}" for n in range(999)))
    guide = EnsembleClassifier([member, member], [1, 1], COLOURS[:1])
    (prediction,) = guide.predictions(BLACK, [0])
    (alone,) = member.predictions(BLACK, [0])
    assert prediction == Prediction("blue", True, prediction.probability)
    assert prediction.probability == pytest.approx(alone.probability)


def test_a_hopeless_target_still_has_a_gradient_in_an_ensemble():
    """Its probability is too small for float32; its gradient must be there all the same, as one classifier does."""
    member, gradients = classifier_of(FixedLogits(0.0, 300.0), "blue", "red"), []
    for guide in (member, EnsembleClassifier([member, member], [1, 2], COLOURS)):
        images = (BLACK / 2).requires_grad_()
        torch.nn.functional.cross_entropy(guide.logits(images), torch.tensor([0])).backward()
        gradients.append(images.grad)
    assert gradients[0].abs().max() > 0.1
    torch.testing.assert_close(*gradients)


def test_an_ensemble_without_classes_or_with_a_label_missing_is_refused():
    members = [classifier_of(FixedLogits(1.0, 2.0), "blue", "red")] * 2
    with pytest.raises(ModelError, match=r"give load\(members, classes\)"):
        EnsembleClassifier(members, [1, 1], [])
    with pytest.raises(ModelError, match=r"other classes, without \['gull'\]"):
        EnsembleClassifier(members, [1, 1], COLOURS).targets([ClassInfo(7, "gull", "gull")])
    with pytest.raises(ModelError, match="no single label for 1 of 2 classes: 'red'"):
        EnsembleClassifier([members[0], classifier_of(FixedLogits(1.0), "blue")], [1, 1], COLOURS)
