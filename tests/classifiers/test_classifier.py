"""A classifier reads images as they will be saved, and gives gradients, predictions and nothing else."""

import pytest
import torch

from dct_augment.classifiers import Preprocess, SingleClassifier
from dct_augment.errors import ModelError
from tests import tiny
from tests.classifiers.small_models import LABELS, MEAN, STD, MeanColour, RecordingNetwork, classifier_of, flat


def test_images_outside_the_range_are_read_as_they_will_be_saved():
    model = RecordingNetwork()
    guide = SingleClassifier(model, Preprocess.square(8, MEAN, STD), LABELS)
    wild = torch.tensor([-3.0, 0.0, 1.7]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    guide.logits(wild)
    expected = (torch.tensor([0.0, 0.5, 1.0]) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(model.pixels[0, :, 0, 0], expected)


def test_the_gradient_of_a_classifier_reaches_the_images_and_nothing_else():
    guide = tiny.classifier("test_resnet")
    images = (torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8).requires_grad_()
    guide.logits(images)[:, 1].sum().backward()
    assert images.grad.flatten(1).abs().amax(1).min() > 0
    assert all(not weight.requires_grad and weight.grad is None for weight in guide._model.parameters())
    assert not any(module.training for module in guide._model.modules())


def test_an_image_has_the_same_logits_in_any_batch():
    guide = tiny.classifier("test_resnet")
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    alone = torch.cat([guide.logits(image[None]) for image in images])
    torch.testing.assert_close(guide.logits(images), alone, atol=1e-4, rtol=1e-4)


def test_predictions_name_the_best_label_and_the_probability_of_the_target():
    class Fixed(torch.nn.Module):
        def forward(self, pixels):
            return torch.tensor([[0.0, 3.0, 1.0, 0.0], [2.0, 0.0, 0.0, 0.0]]).log_softmax(1)

    guide = SingleClassifier(Fixed(), Preprocess.square(8, MEAN, STD), LABELS)
    probabilities = Fixed()(None).exp()
    (first, second) = guide.predictions(torch.zeros(2, 3, 8, 8), [2, 0])
    assert (first.label, first.is_target) == ("stone", False)
    assert (second.label, second.is_target) == ("Red_Bird", True)
    assert first.probability == pytest.approx(probabilities[0, 2].item())
    assert second.probability == pytest.approx(probabilities[1, 0].item())


def test_outputs_that_do_not_fit_the_labels_of_a_classifier_are_refused():
    with pytest.raises(ModelError, match=r"with 2 labels returned \(1, 3\) for 1 images, not \(1, 2\)"):
        classifier_of(MeanColour(), "blue", "red").logits(flat(0.1, 0.2, 0.3))
    model = torch.nn.Module()
    model.forward = lambda images: (images,)
    with pytest.raises(ModelError, match="returned tuple"):
        classifier_of(model, "blue", "red").logits(flat(0.1, 0.2, 0.3))
