"""What an image takes of memory, counted with values and by shapes alone, and the batches that follow from it."""

import gc

import pytest
import torch

from dct_augment.diffusion import Sampler, image_memory, load, shapes
from dct_augment.diffusion import memory as budget
from dct_augment.diffusion.image_memory import ImageMemory
from dct_augment.diffusion.memory import BatchSizes
from dct_augment.diffusion.peak_memory import peak_bytes, shapes_only
from tests import tiny

_KB = 1024


class TestPeakBytes:
    def test_tensors_count_while_something_holds_them(self):
        def work() -> None:
            first = torch.ones(_KB, dtype=torch.uint8)
            second = torch.ones(2 * _KB, dtype=torch.uint8)
            del first, second
            torch.ones(_KB, dtype=torch.uint8)

        assert peak_bytes(work) == 3 * _KB

    def test_views_and_what_was_there_before_do_not_count(self):
        weight = torch.ones(_KB, dtype=torch.uint8)
        assert peak_bytes(lambda: weight.view(2, -1).t()[0].add_(1)) == 0

    def test_what_waits_for_its_backward_pass_counts(self):
        weight = torch.ones(_KB).requires_grad_()
        squares = peak_bytes(lambda: weight.exp().exp().exp().sum())
        assert squares == 3 * 4 * _KB + 4

    def test_models_of_any_size_run_without_values(self):
        side = 10**6  # 4 TB of weights
        with shapes_only():
            assert peak_bytes(lambda: torch.empty(side, side)) == 4 * side**2


@pytest.mark.parametrize("memory", ["fast", "balanced", "low"])
@pytest.mark.parametrize("family", ["epsilon", "xl", "pixart", "sd35", "flux", "sana", "z_image"])
def test_a_model_of_shapes_takes_what_the_loaded_one_takes(monkeypatch, family, memory):
    # Shapes do not tell padding, of which Z-Image takes none: they are counted as if all were words.
    monkeypatch.setattr("dct_augment.diffusion.z_image.has_values", lambda mask: False)
    folder, size = tiny.pipeline_folder(family), tiny.IMAGE
    loaded = load(str(folder), memory=memory, image_size=size)
    expected = image_memory.measure(Sampler(loaded, steps=2, guidance_scale=3.0))
    with shapes.of_folder(folder, memory=memory) as backend:
        backend.resize(size)
        assert budget.weight_bytes(backend.models) == budget.weight_bytes(loaded.models)
        assert image_memory.measure(Sampler(backend, steps=2, guidance_scale=3.0)) == expected
    assert all(count > 0 for count in expected.of.values())


def test_a_guide_and_waiting_passes_are_counted():
    sampler = Sampler(tiny.backend(), steps=2, guidance_scale=3.0)
    alone = image_memory.measure(sampler)
    weight = torch.ones(1, 3 * sampler.backend.image_size**2)
    guided = image_memory.measure(sampler, lambda images: (images.flatten(1) * weight).exp(), passes=3)
    assert guided.of["decode_gradient"] > alone.of["decode_gradient"]
    assert guided.of["update"] == 3 * alone.of["update"]


def test_layers_of_the_decoder_that_run_again_keep_less_and_have_the_same_gradient():
    backend, pipe = tiny.backend("epsilon", "float64"), tiny.pipeline("epsilon", torch.float64)
    latents = backend.latents([0]).requires_grad_()
    gradients, peaks = [], []
    for memory in ("fast", "balanced", "fast"):
        budget.apply(pipe, memory)

        def work() -> None:
            (gradient,) = torch.autograd.grad(pipe.vae.decode(latents).sample.square().sum(), latents)
            gradients.append(gradient)

        peaks.append(peak_bytes(work))
        gc.collect()
    assert torch.equal(gradients[0], gradients[1])
    assert peaks[1] < 0.8 * peaks[0]
    assert peaks[2] == peaks[0]


class TestBatches:
    """How many images are done at once."""

    MEMORY = ImageMemory({"update": 10, "inversion": 5, "generate": 4, "decode": 20, "decode_gradient": 60})

    def test_as_many_as_fit_beside_one_that_is_decoded(self):
        sizes = BatchSizes()
        image_memory.limit(sizes, self.MEMORY, 1 + int(100 / 0.9))
        assert [sizes.at_most(purpose, 99) for purpose in self.MEMORY.of] == [4, 8, 25, 5, 1]

    def test_a_model_is_measured_once_without_a_guide_and_once_with_one(self, monkeypatch):
        model = load(str(tiny.pipeline_folder()), memory="fast")
        sampler, measured = Sampler(model, steps=2, guidance_scale=3.0), []

        def peak(work):
            measured.append(work)
            return peak_bytes(work)

        one = image_memory.measure(sampler)
        monkeypatch.setattr(image_memory, "free_bytes", lambda _: int(2.5 * one.of["generate"] / 0.9))
        for _ in range(2):
            image_memory.fit_batches(sampler, peak=peak)
        kinds = len(measured)
        assert model.batch_sizes.at_most("generate", 99) == 2
        assert model.batch_sizes.at_most("update", 99) == 1
        for recognise in (torch.exp, torch.exp, None):
            image_memory.fit_batches(sampler, recognise, peak=peak)
        assert len(measured) == 2 * kinds

    def test_where_memory_does_not_hold_one_image_nothing_is_limited(self):
        model = load(str(tiny.pipeline_folder()), memory="fast")

        def exhausted(work):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        image_memory.fit_batches(Sampler(model, steps=2, guidance_scale=3.0), peak=exhausted)
        assert model.batch_sizes.at_most("generate", 99) == 99

    def test_one_at_least(self):
        sizes = BatchSizes()
        image_memory.limit(sizes, self.MEMORY, 0)
        assert {sizes.at_most(purpose, 99) for purpose in self.MEMORY.of} == {1}

    def test_no_more_than_keep_a_gpu_busy(self):
        sizes = {side: BatchSizes(side) for side in (64, 512, 1024, 4096)}
        assert [sizes[side].at_most("update", 99) for side in sizes] == [99, 4, 1, 1]
        assert [sizes[side].at_most("decode_gradient", 99) for side in sizes] == [64, 1, 1, 1]

    def test_the_peak_is_that_of_the_largest_work(self):
        assert self.MEMORY.peak({"update": 4, "decode_gradient": 1, "generate": 8}) == 100
        assert self.MEMORY.peak({"update": 1, "decode_gradient": 1, "generate": 25}) == 100
        assert self.MEMORY.peak({}) == 0
