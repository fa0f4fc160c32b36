"""The back-end against diffusers itself: the same model, prompts and latents must give the same images."""

from pathlib import Path

import pytest
import tiny
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from safetensors.torch import save_file

from dct_augment import diffusion
from dct_augment.diffusion import Trajectory, look_ahead_step, sample
from dct_augment.errors import ModelError

PREDICTIONS = ("epsilon", "v_prediction")
TOKEN = "<dct-tiny-crane>"
STEPS, SCALE = 5, 4.0


def from_pipeline(pipe, prompt, seeds, *, negative="", steps=STEPS, scale=SCALE, scheduler=None):
    """Images in [-1, 1] as diffusers draws them from our initial latents."""
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    noise = [torch.randn(1, *tiny.LATENT, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    images = pipe(
        [prompt] * len(seeds),
        negative_prompt=[negative] * len(seeds),
        latents=torch.cat(noise),
        num_inference_steps=steps,
        guidance_scale=scale,
        output_type="pt",
    ).images
    return images.float() * 2 - 1


def token_file(tmp_path: Path, vectors: torch.Tensor) -> Path:
    path = tmp_path / "token.safetensors"
    save_file({TOKEN: vectors[0].clone() if len(vectors) == 1 else vectors}, path)
    return path


def vectors(count: int) -> torch.Tensor:
    return torch.randn(count, tiny.WIDTH, generator=torch.Generator().manual_seed(11))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("scheduler", [None, DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize(("negative", "scale"), [("", SCALE), ("a green kiwi", SCALE), ("", 1.0)])
def test_images_equal_the_pipelines(prediction, scheduler, negative, scale):
    backend, seeds = tiny.backend(prediction), [3, 4]
    prompt = "a photo of a red bird"
    expected = from_pipeline(
        tiny.pipeline(prediction), prompt, seeds, negative=negative, scale=scale, scheduler=scheduler
    )
    conditioning, unconditional = backend.encode([prompt]), backend.encode([negative])
    images = sample(
        backend,
        seeds,
        conditioning.expand(len(seeds), -1, -1),
        unconditional,
        steps=STEPS,
        scale=scale,
        scheduler=scheduler and scheduler.__name__,
    )
    assert images.shape == (2, 3, tiny.IMAGE, tiny.IMAGE)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    assert images.std() > 0.05


def test_words_change_the_tiny_images():
    """Guards the other tests: on a model that ignores its prompt, equality would prove nothing."""
    for prediction in PREDICTIONS:
        backend, empty = tiny.backend(prediction), tiny.backend(prediction).encode([""])
        drawn = [
            sample(backend, [1], backend.encode([prompt]), empty, steps=STEPS, scale=SCALE)
            for prompt in ("a photo of a crane", "a photo of a red bird")
        ]
        assert (drawn[0] - drawn[1]).abs().mean() > 0.01


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "prompt", [f"a photo of a {TOKEN} crane", f"{TOKEN}", f"a {TOKEN} crane, by the water", f"a crane {TOKEN}"]
)
def test_injected_vectors_equal_a_loaded_textual_inversion(tmp_path, prediction, count, prompt):
    pipe, backend = tiny.pipeline(prediction), tiny.backend(prediction)
    pipe.load_textual_inversion(token_file(tmp_path, vectors(count)))
    encoding = backend.encode([prompt], vectors(count)[None])
    torch.testing.assert_close(encoding, pipe.encode_prompt(prompt, "cpu", 1, False)[0], atol=1e-5, rtol=1e-5)
    images = sample(backend, [5], encoding, backend.encode([""]), steps=STEPS, scale=SCALE)
    torch.testing.assert_close(images, from_pipeline(pipe, prompt, [5]), atol=1e-4, rtol=0)


def test_every_prompt_of_a_batch_gets_its_own_vectors_at_its_own_place():
    backend = tiny.backend()
    prompts = [f"a photo of a {TOKEN} crane", f"{TOKEN} kiwi"]
    both = torch.stack([vectors(2), -vectors(2)])
    alone = [backend.encode([prompt], vector[None]) for prompt, vector in zip(prompts, both, strict=True)]
    torch.testing.assert_close(backend.encode(prompts, both), torch.cat(alone))


@pytest.mark.parametrize("text", ["a red bird", "", "a photo of a crane, " * 20])
def test_plain_prompts_are_padded_and_cut_as_the_pipeline_does(text):
    for prediction in PREDICTIONS:
        encoding = tiny.pipeline(prediction).encode_prompt(text, "cpu", 1, False)[0]
        torch.testing.assert_close(tiny.backend(prediction).encode([text]), encoding)


def test_the_vocabulary_is_never_touched_and_gradient_reaches_the_vector_alone():
    backend = tiny.backend()
    table = backend.text_encoder.get_input_embeddings()
    before = table.weight.clone()
    vector = vectors(1).requires_grad_()
    encoding = backend.encode([f"a {TOKEN} crane"], vector[None])
    walk = Trajectory(backend.scheduler(STEPS), backend.latents([1]), encoding)
    backend.decode(look_ahead_step(backend, [walk], backend.encode([""]), SCALE)).square().sum().backward()
    assert vector.grad is not None
    assert vector.grad.abs().max() > 0
    assert torch.equal(table.weight, before)
    for model in (backend.text_encoder, backend.unet, backend.vae):
        assert not model.training
        assert all(not weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_injection_ends_with_the_call_even_after_an_error():
    backend = tiny.backend()
    plain = backend.encode(["a red bird"])
    backend.encode([f"a {TOKEN} crane"], vectors(1)[None])
    assert torch.equal(backend.encode(["a red bird"]), plain)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = backend.text_encoder.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        backend.encode([f"a {TOKEN} crane"], vectors(1)[None])
    handle.remove()
    assert torch.equal(backend.encode(["a red bird"]), plain)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_no_gradient_through_the_unconditional_branch(prediction):
    backend = tiny.backend(prediction)
    empty = backend.encode([""]).requires_grad_()
    conditioning = backend.encode(["a crane"]).requires_grad_()
    output = backend.predict(backend.latents([1]), torch.tensor([400]), conditioning, empty, SCALE)
    (to_empty, to_named) = torch.autograd.grad(output.sum(), (empty, conditioning), allow_unused=True)
    assert to_empty is None
    assert to_named.abs().max() > 0
    with torch.no_grad():
        silent = backend.predict(backend.latents([1]), torch.tensor([400]), conditioning, empty, SCALE)
    torch.testing.assert_close(silent, output.detach(), atol=1e-5, rtol=1e-5)


def test_initial_latents_depend_on_the_seed_alone():
    backend = tiny.backend()
    together = backend.latents([5, 6, 5])
    assert together.shape == (3, *tiny.LATENT)
    assert torch.equal(together[1], backend.latents([6])[0])
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_clean_prediction_is_the_schedulers_own(prediction):
    backend = tiny.backend(prediction)
    scheduler = backend.scheduler(7)
    generator = torch.Generator().manual_seed(1)
    for step in range(7):
        latents, output = (torch.randn(2, *tiny.LATENT, generator=generator) for _ in range(2))
        timestep = scheduler.timesteps[step]
        own = scheduler.step(output, timestep, latents).pred_original_sample
        torch.testing.assert_close(backend.clean(output, latents, timestep.expand(2)), own, atol=1e-4, rtol=1e-5)


def test_samples_at_different_timesteps_share_a_batch():
    backend = tiny.backend()
    latents, timesteps = backend.latents([1, 2]), torch.tensor([900, 20])
    conditioning, empty = backend.encode(["a crane", "a kiwi"]), backend.encode([""])
    together = backend.predict(latents, timesteps, conditioning, empty, SCALE)
    for row in range(2):
        one = slice(row, row + 1)
        alone = backend.predict(latents[one], timesteps[one], conditioning[one], empty, SCALE)
        torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=1e-5)


def test_the_words_that_set_the_scale_are_whole_words():
    backend = tiny.backend()
    mean, largest = backend.word_norms()
    norms = {word: backend.word(word).norm().item() for word in ("photo", "crane", "cardinal", "water", "bird")}
    assert min(norms.values()) * 0.5 < mean <= largest
    assert largest >= max(norms.values()) - 1e-6


def test_the_scale_of_words_is_the_same_to_the_last_bit_every_time():
    """The tokenizer's vocabulary comes in another order at every call; a sum must not."""
    assert len({tiny.backend().word_norms() for _ in range(20)}) == 1
    first = tiny.backend().words()
    assert all(torch.equal(tiny.backend().words(), first) for _ in range(5))


def test_dtype_is_that_of_the_whole_model():
    backend = diffusion.load(str(tiny.pipeline_folder()), dtype="bfloat16")
    assert {model.dtype for model in (backend.unet, backend.vae, backend.text_encoder)} == {torch.bfloat16}
    images = sample(backend, [1], backend.encode(["a crane"]), backend.encode([""]), steps=2, scale=SCALE)
    assert images.dtype == torch.float32
    assert images.isfinite().all()


class TestErrors:
    """Each message names the value and what to do."""

    @pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "nothing", "~/no-such-dct-folder"])
    def test_missing_folder(self, path):
        with pytest.raises(ModelError, match=r"no model_index\.json") as caught:
            diffusion.load(path)
        assert repr(path) in str(caught.value)

    def test_folder_of_another_kind(self, tmp_path):
        (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
        with pytest.raises(ModelError, match="cannot be loaded"):
            diffusion.load(str(tmp_path))

    def test_broken_index(self, tmp_path):
        (tmp_path / "model_index.json").write_text("not json")
        with pytest.raises(ModelError, match="cannot be loaded"):
            diffusion.load(str(tmp_path))

    def test_split_init_word(self):
        assert tiny.backend().word("crane").shape == (tiny.WIDTH,)
        with pytest.raises(ModelError, match=r"'zebrafish' is \d+ pieces"):
            tiny.backend().word("zebrafish")

    @pytest.mark.parametrize("prompt", ["a photo of a crane", f"{TOKEN} and {TOKEN}", "a <class> crane", ""])
    def test_not_exactly_one_token(self, prompt):
        with pytest.raises(ModelError, match="exactly one class token"):
            tiny.backend().encode([prompt], vectors(1)[None])

    def test_token_beyond_the_end_of_the_prompt(self):
        words = "a " * (tiny.LENGTH - 3)  # start, 21 words, one vector, end: just fits
        tiny.backend().encode([f"{words}{TOKEN} crane"], vectors(1)[None])
        with pytest.raises(ModelError, match="leaves no room"):
            tiny.backend().encode([f"{words}{TOKEN} crane"], vectors(2)[None])
        with pytest.raises(ModelError, match="leaves no room"):
            tiny.backend().encode([f"{words}a {TOKEN}"], vectors(1)[None])

    @pytest.mark.parametrize("shape", [(3, 1, tiny.WIDTH), (1, 1, 2 * tiny.WIDTH), (1, 1, tiny.WIDTH // 2)])
    def test_vectors_of_another_model_or_batch(self, shape):
        with pytest.raises(ModelError, match=f"must be \\(1, n, {tiny.WIDTH}\\)"):
            tiny.backend().encode([f"a {TOKEN} crane"], torch.zeros(shape))

    def test_unknown_scheduler(self):
        with pytest.raises(ModelError, match=r"'PNDMScheduler'.*DDIMScheduler, DPMSolverMultistepScheduler"):
            tiny.backend().scheduler(STEPS, "PNDMScheduler")
