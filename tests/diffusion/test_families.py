"""The back-ends against diffusers itself: the same model, prompts and latents must give the same images."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from transformers import AddedToken

import dct_augment
from dct_augment import diffusion
from dct_augment.diffusion import Conditioning, Sampler, ShrinkingBatches, Trajectory, load, split_by_encoder
from dct_augment.diffusion.memory import choose
from dct_augment.errors import DctAugmentError, InputError, ModelError
from dct_augment.tokens import formats
from tests import tiny

PREDICTIONS = ("epsilon", "v_prediction")
TOKEN = "<dct-tiny-crane>"
STEPS, SCALE = 5, 4.0


def from_pipeline(pipe, prompt, seeds, *, negative="", steps=STEPS, scale=SCALE, scheduler=None, **options):
    """Images in [-1, 1] as the family's own pipeline generates them, each from the generator of its seed."""
    if scheduler is not None:
        if isinstance(pipe, diffusers.LatentConsistencyModelPipeline):  # takes no other scheduler; its twin does
            pipe = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
            pipe.set_progress_bar_config(disable=True)
        settings = pipe.scheduler.config
        shift = settings.get("flow_shift", settings.get("shift"))
        flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift, "shift": shift}
        is_flow = settings.get("prediction_type", "flow_prediction") == "flow_prediction"
        pipe.scheduler = getattr(diffusers, scheduler).from_config(settings, **(flow if is_flow else {}))
    if isinstance(pipe, diffusers.PixArtSigmaPipeline):
        options |= {"negative_prompt": negative, "use_resolution_binning": False, "clean_caption": False}
    elif isinstance(pipe, diffusers.FluxPipeline):
        options = {"height": tiny.IMAGE, "width": tiny.IMAGE, **options}
    elif isinstance(pipe, diffusers.SanaPipeline):
        options = {"height": tiny.IMAGE, "width": tiny.IMAGE} | options
        options |= {"negative_prompt": negative, "use_resolution_binning": False}
    elif isinstance(pipe, diffusers.ZImagePipeline):
        options = {"height": tiny.IMAGE, "width": tiny.IMAGE, "negative_prompt": [negative] * len(seeds), **options}
        scale -= 1  # its formula is c + s (c - u)
    elif not isinstance(pipe, diffusers.LatentConsistencyModelPipeline):
        options |= {"negative_prompt": [negative] * len(seeds) if negative else None}
    images = pipe(
        [prompt] * len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=steps,
        guidance_scale=scale,
        output_type="pt",
        **options,
    ).images
    return images.float() * 2 - 1


def from_backend(backend, prompt, seeds, *, negative="", steps=STEPS, scale=SCALE, scheduler=None, vector=None):
    """Images in [-1, 1] as the package generates them."""
    encoding = backend.encode([prompt], None if vector is None else vector[None])
    sampler = Sampler(backend, steps=steps, guidance_scale=scale, scheduler_name=scheduler, negative_prompt=negative)
    return sampler.generate(seeds, encoding.expand(len(seeds)))


def new_sampler(backend) -> Sampler:
    return Sampler(backend, steps=STEPS, guidance_scale=SCALE)


def vectors(count: int, family: str = "epsilon") -> torch.Tensor:
    return torch.randn(count, tiny.backend(family).width, generator=torch.Generator().manual_seed(11))


COMMON = (None, "DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")
MORE = ("EulerAncestralDiscreteScheduler", "PNDMScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler")
FLOW = (
    "FlowMatchHeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
DIFFUSION = [family for family in tiny.FAMILIES if family not in tiny.FLOWS]
PARITY = [(family, scheduler) for family in DIFFUSION for scheduler in COMMON]
PARITY += [(family, scheduler) for family in tiny.FLOWS if family != "z_image" for scheduler in (None, *FLOW)]
PARITY += [("z_image", None)]  # its pipeline takes no other
PARITY += [("schnell", None), ("schnell", "UniPCMultistepScheduler")]  # its pipeline takes no other
PARITY += [("xl_lcm", None), ("xl_lcm", "DDIMScheduler")]
PARITY += [("sana", "FlowMatchEulerDiscreteScheduler")]
PARITY += [("epsilon", scheduler) for scheduler in MORE] + [("v_prediction", "LCMScheduler")]


OLD_NUMPY = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # some schedulers of diffusers


@OLD_NUMPY
@pytest.mark.parametrize(("family", "scheduler"), PARITY)
def test_images_equal_those_of_the_diffusers_pipeline(family, scheduler):
    prompt, seeds = "a photo of a red bird", [3, 4]
    if family in ("sd35", "flux") and scheduler == "FlowMatchHeunDiscreteScheduler":  # knows no shift by resolution
        with pytest.raises(ModelError, match=r"does not suit this model.*DPMSolverMultistepScheduler"):
            from_backend(tiny.backend(family), prompt, seeds, scheduler=scheduler)
        return
    if scheduler == "LCMScheduler":  # not among the schedulers that diffusers calls compatible
        with pytest.raises(ModelError, match="does not suit"):
            from_backend(tiny.backend(family), prompt, seeds, scheduler=scheduler)
        return
    scale = 1.0 if family == "schnell" else SCALE
    expected = from_pipeline(tiny.pipeline(family), prompt, seeds, scheduler=scheduler, scale=scale)
    images = from_backend(tiny.backend(family), prompt, seeds, scheduler=scheduler, scale=scale)
    assert images.shape == (2, 3, tiny.IMAGE, tiny.IMAGE)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    assert images.std() > 0.05


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize(("negative", "scale"), [("a green kiwi", SCALE), ("", 1.0)])
def test_images_with_a_negative_prompt_or_without_guidance_equal_those_of_the_diffusers_pipeline(
    family, negative, scale
):
    if family in tiny.ONE_BRANCH and negative:
        with pytest.raises(ModelError, match=r"prompts.negative 'a green kiwi' does not suit .* Leave it empty"):
            from_backend(tiny.backend(family), "a crane", [5], negative=negative)
        backend = tiny.backend(family)
        with pytest.raises(ModelError, match=r"prompts.negative 'a green kiwi' does not suit"):
            new_sampler(backend).with_negatives(backend.encode(["a crane"]), [negative])
        return
    expected = from_pipeline(tiny.pipeline(family), "a crane", [5], negative=negative, scale=scale)
    images = from_backend(tiny.backend(family), "a crane", [5], negative=negative, scale=scale)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if name not in tiny.ONE_BRANCH])
def test_prompts_of_one_batch_have_negative_prompts_of_their_own(family):
    backend, negatives, seeds = tiny.backend(family), ["", "a green kiwi", "a red bird on the sand"], [4, 5, 6]
    sampler = new_sampler(backend)
    encoding = backend.encode(["a photo of a crane"]).expand(3)
    together = sampler.generate(seeds, sampler.with_negatives(encoding, negatives))
    for row, negative in enumerate(negatives):
        alone = from_backend(backend, "a photo of a crane", seeds[row : row + 1], negative=negative)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=0)
    assert (together[0] - from_backend(backend, "a photo of a crane", [4], negative=negatives[1])).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["epsilon", "xl", "pixart", "sd35", "flux", "z_image"])
def test_images_of_another_size_equal_those_of_the_diffusers_pipeline(family):
    side = 2 * tiny.IMAGE
    backend = load(str(tiny.pipeline_folder(family)), image_size=side, memory="fast")
    images = from_backend(backend, "a photo of a crane", [3])
    assert images.shape[-1] == backend.image_size == side
    expected = from_pipeline(tiny.pipeline(family), "a photo of a crane", [3], height=side, width=side)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "size", "step"),
    [("epsilon", 17, 2), ("sd35", 18, 4), ("sd35", 2, 4), ("flux", 18, 4), ("z_image", 18, 4)],
)
def test_an_image_size_without_latents_is_refused(family, size, step):
    folder = str(tiny.pipeline_folder(family))
    with pytest.raises(ModelError, match=f"model.image_size {size} does not suit.* a multiple of {step} pixels a side"):
        load(folder, image_size=size)


def test_an_image_larger_than_the_table_of_places_is_refused():
    folder = str(tiny.pipeline_folder("z_image"))
    with pytest.raises(ModelError, match=r"model.image_size \d+ does not suit.* at most \d+ pixels a side"):
        load(folder, image_size=4 * tiny.IMAGE * 32)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_words_of_a_prompt_change_the_images_of_the_tiny_models(family):
    """Guards the other tests: on a model that ignores its prompt, equality would prove nothing."""
    backend = tiny.backend(family)
    crane, bird = (from_backend(backend, prompt, [1]) for prompt in ("a photo of a crane", "a photo of a red bird"))
    assert (crane - bird).abs().mean() > 2e-3


def added(*names):
    """New words that take the space before them, as other words do to Gemma."""
    return [AddedToken(name, lstrip=True, normalized=False) for name in names]


def load_token(pipe, backend, vector, folder: Path) -> None:
    """Give a pipeline the token as its users do."""
    parts = split_by_encoder(vector, backend.encoder_widths.values())
    stored = {key or TOKEN: part.clone() for key, part in zip(backend.encoder_widths, parts, strict=True)}
    save_file(stored, folder / "token.safetensors")
    if not hasattr(pipe, "load_textual_inversion") or "t5xxl" in backend.encoder_widths:
        for part, encoder in zip(parts, ("", "_2", "_3"), strict=False):  # diffusers has no loader for them
            tokenizer, model = getattr(pipe, f"tokenizer{encoder}"), getattr(pipe, f"text_encoder{encoder}")
            names = [TOKEN, *(f"{TOKEN}_{number}" for number in range(1, len(vector)))]
            # What a pipeline converts by itself, it looks up among the pieces of a prompt: they must have no space.
            tokenizer.add_tokens(names if hasattr(pipe, "maybe_convert_prompt") else added(*names))
            table = model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            table.weight.data[-len(vector) :] = part
    elif len(parts) == 1:
        pipe.load_textual_inversion(folder / "token.safetensors")
    else:
        models = ((pipe.text_encoder, pipe.tokenizer), (pipe.text_encoder_2, pipe.tokenizer_2))
        for key, (model, tokenizer) in zip(backend.encoder_widths, models, strict=True):
            pipe.load_textual_inversion(stored[key], token=TOKEN, text_encoder=model, tokenizer=tokenizer)


PROMPTS = [f"a photo of a {TOKEN} crane", f"{TOKEN}", f"a {TOKEN} crane, by the water", f"a crane {TOKEN}"]
INVERSIONS = [(family, prompt) for family in PREDICTIONS for prompt in PROMPTS]
INVERSIONS += [(family, PROMPTS[0]) for family in tiny.FAMILIES if family not in PREDICTIONS] + [("xl", PROMPTS[2])]
INVERSIONS += [(family, prompt) for family in ("sana", "z_image") for prompt in PROMPTS[1:]]  # there, spaces count


@pytest.mark.parametrize(("family", "prompt"), INVERSIONS)
@pytest.mark.parametrize("count", [1, 3])
def test_injected_vectors_equal_a_loaded_textual_inversion(tmp_path, family, prompt, count):
    pipe, backend, vector = tiny.pipeline(family), tiny.backend(family), vectors(count, family)
    load_token(pipe, backend, vector, tmp_path)
    images = from_backend(backend, prompt, [5], vector=vector)
    if not hasattr(pipe, "maybe_convert_prompt"):  # which puts all vectors of a token in
        prompt = prompt.replace(TOKEN, " ".join([TOKEN, *(f"{TOKEN}_{number}" for number in range(1, count))]))
    torch.testing.assert_close(images, from_pipeline(pipe, prompt, [5]), atol=1e-4, rtol=0)
    assert (images - from_backend(backend, "a photo of a crane", [5])).abs().mean() > 1e-3


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("count", [1, 2])
def test_a_token_file_is_put_into_a_pipeline_by_one_call(tmp_path, family, count):
    pipe, backend, vector = tiny.pipeline(family), tiny.backend(family), vectors(count, family)
    token = formats.Token(TOKEN, formats.split(vector, backend.encoder_widths))
    formats.write([token], tmp_path, "diffusers")
    words = dct_augment.add_class_tokens(pipe, tmp_path)
    assert list(words) == [TOKEN]
    images = from_backend(backend, f"a photo of a {TOKEN} crane", [5], vector=vector)
    expected = from_pipeline(pipe, f"a photo of a {words[TOKEN]} crane", [5])
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match=f"has the class token {TOKEN} already"):
        dct_augment.add_class_tokens(pipe, tmp_path)


def test_a_token_of_another_model_or_none_is_not_put_into_a_pipeline(tmp_path):
    pipe = tiny.pipeline("xl")
    vocabulary = len(pipe.tokenizer)
    with pytest.raises(InputError, match="holds no token file"):
        dct_augment.add_class_tokens(pipe, tmp_path)
    token = formats.Token(TOKEN, formats.split(vectors(1), {"": tiny.WIDTH}))
    formats.write([token], tmp_path / "tokens", "diffusers")
    with pytest.raises(InputError, match="those of a run are in"):
        dct_augment.add_class_tokens(pipe, tmp_path)
    formats.write([token], tmp_path, "diffusers")
    with pytest.raises(InputError, match="vectors have 16 values, the words of this pipeline 16 and 24"):
        dct_augment.add_class_tokens(pipe, tmp_path)
    assert len(pipe.tokenizer) == vocabulary
    with pytest.raises(InputError, match="the pipeline is a NoneType, without a text encoder; give a text-to-image"):
        dct_augment.add_class_tokens(None, tmp_path)


def test_every_prompt_of_a_batch_gets_its_own_vectors_where_its_token_stands():
    backend = tiny.backend()
    prompts = [f"a photo of a {TOKEN} crane", f"{TOKEN} kiwi"]
    both = torch.stack([vectors(2), -vectors(2)])
    alone = [backend.encode([prompt], vector[None]) for prompt, vector in zip(prompts, both, strict=True)]
    torch.testing.assert_close(backend.encode(prompts, both).hidden, Conditioning.cat(alone).hidden)


@pytest.mark.parametrize("text", ["a red bird", "", " a bird,", "\n\nthe water", "a" + " a" * 503])
def test_plain_prompts_of_z_image_are_read_in_the_chat_template_as_the_pipeline_does(text):
    (expected,), _ = tiny.pipeline("z_image").encode_prompt(text, do_classifier_free_guidance=False)
    encoded = tiny.backend("z_image").encode([text])
    torch.testing.assert_close(encoded.hidden[0, : len(expected)], expected)
    assert encoded.extra["mask"].sum() == len(expected)


@pytest.mark.parametrize("text", ["a red bird", "", "a " * (tiny.LENGTH - 2)])
def test_plain_prompts_are_padded_as_the_pipeline_does(text):
    for prediction in PREDICTIONS:
        encoding = tiny.pipeline(prediction).encode_prompt(text, "cpu", 1, False)[0]
        torch.testing.assert_close(tiny.backend(prediction).encode([text]).hidden, encoding)


def test_the_vocabulary_is_never_touched_and_gradient_reaches_the_vector_alone():
    backend = tiny.backend()
    table = backend.encoders[0].model.get_input_embeddings()
    before = table.weight.clone()
    vector = vectors(1).requires_grad_()
    encoding = backend.encode([f"a {TOKEN} crane"], vector[None])
    trajectory = Trajectory(backend.scheduler(STEPS), backend.latents([1]), encoding)
    backend.decode(new_sampler(backend).clean_step([trajectory])).square().sum().backward()
    assert vector.grad is not None
    assert vector.grad.abs().max() > 0
    assert torch.equal(table.weight, before)
    for model in (backend.encoders[0].model, backend.denoiser, backend.vae):
        assert not model.training
        assert all(not weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_injection_ends_with_the_call_even_after_an_error():
    backend = tiny.backend()
    plain = backend.encode(["a red bird"]).hidden
    backend.encode([f"a {TOKEN} crane"], vectors(1)[None])
    assert torch.equal(backend.encode(["a red bird"]).hidden, plain)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = backend.encoders[0].model.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        backend.encode([f"a {TOKEN} crane"], vectors(1)[None])
    handle.remove()
    assert torch.equal(backend.encode(["a red bird"]).hidden, plain)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_unconditional_branch_gets_no_gradient(prediction):
    backend = tiny.backend(prediction)
    empty, conditioning = backend.encode([""]), backend.encode(["a crane"])
    leaves = [encoding.hidden.requires_grad_() for encoding in (empty, conditioning)]
    guided = new_sampler(backend)
    guided.unconditional = empty
    output = guided.predict(backend.latents([1]), torch.tensor([400]), conditioning)
    (to_empty, to_named) = torch.autograd.grad(output.sum(), leaves, allow_unused=True)
    assert to_empty is None
    assert to_named.abs().max() > 0
    with torch.no_grad():
        together = guided.predict(backend.latents([1]), torch.tensor([400]), conditioning)
    torch.testing.assert_close(together, output.detach(), atol=1e-5, rtol=1e-5)


def test_initial_latents_depend_on_the_seed_alone():
    backend = tiny.backend()
    together = backend.latents([5, 6, 5])
    assert together.shape == (3, *tiny.LATENT)
    assert torch.equal(together[1], backend.latents([6])[0])
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("family", DIFFUSION)
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_the_clean_prediction_is_the_schedulers_own(family, scheduler):
    backend, generator = tiny.backend(family), torch.Generator().manual_seed(1)
    trajectory = Trajectory(backend.scheduler(7, scheduler), backend.latents([1, 2]), backend.encode(["a crane"] * 2))
    for _ in range(7):
        output = torch.randn(2, *tiny.LATENT, generator=generator)
        clean = trajectory.clean(output)
        own = trajectory.scheduler.step(output, trajectory.timestep, trajectory.latents)
        torch.testing.assert_close(clean, own.pred_original_sample, atol=2e-3, rtol=1e-4)
        trajectory.latents, trajectory.index = own.prev_sample, trajectory.index + 1


EVERY = [("epsilon", name) for name in (None, "DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "PNDMScheduler")]
EVERY += [("sd3", name) for name in (None, *FLOW)] + [("sd35", None), ("sd35", "UniPCMultistepScheduler")]
EVERY += [("z_image", name) for name in (None, *FLOW)]
EVERY += [("flux", None), ("flux", "DPMSolverMultistepScheduler"), ("schnell", "FlowMatchHeunDiscreteScheduler")]
EVERY += [("sana", name) for name in (None, "FlowMatchEulerDiscreteScheduler")]


@OLD_NUMPY
@pytest.mark.parametrize(("family", "scheduler"), EVERY)
def test_the_right_output_gives_the_clean_latents_back_under_every_scheduler(family, scheduler):
    """Latents are noised to each step of the schedule: with what the model should say they must come back."""
    backend, clean = tiny.backend(family), torch.randn(2, *tiny.LATENT)
    trajectory = Trajectory(backend.scheduler(4, scheduler), backend.latents([1, 2]), backend.encode(["a crane"] * 2))
    for index in range(trajectory.length):
        trajectory.index = index
        (signal, level), noise = trajectory.levels, torch.randn(2, *tiny.LATENT)
        inputs = signal * clean + level * noise
        trajectory.latents = inputs
        if family == "epsilon":
            trajectory.latents = inputs / trajectory.scheduler.scale_model_input(torch.ones(()), trajectory.timestep)
        output = noise if family == "epsilon" else noise - clean
        torch.testing.assert_close(trajectory.clean(output), clean, atol=1e-3, rtol=1e-3)
        trajectory.scheduler.step(output, trajectory.timestep, trajectory.latents)


def test_samples_at_different_timesteps_share_a_batch():
    backend = tiny.backend()
    latents, timesteps = backend.latents([1, 2]), torch.tensor([900, 20])
    conditioning = backend.encode(["a crane", "a kiwi"])
    together = new_sampler(backend).predict(latents, timesteps, conditioning)
    for number in range(2):
        row = slice(number, number + 1)
        alone = new_sampler(backend).predict(latents[row], timesteps[row], conditioning[row])
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["epsilon", "xl", "pixart", "sana", "z_image"])
def test_the_embedding_of_a_word_of_several_pieces_is_their_mean(family):
    backend = tiny.backend(family)
    assert torch.equal(backend.word("crane"), backend.word("crane "))
    words = torch.stack([backend.word(word) for word in ("red", "bird", "photo")])
    torch.testing.assert_close(backend.word("red bird photo"), words.mean(0))
    tables = [encoder.model.get_input_embeddings().weight for encoder in backend.encoders]
    pieces = [encoder.tokenizer(" zebra", add_special_tokens=False).input_ids for encoder in backend.encoders]
    assert min(map(len, pieces)) > 1
    expected = [table[ids].mean(0) for table, ids in zip(tables, pieces, strict=True)]
    torch.testing.assert_close(backend.word("zebra"), torch.cat(expected))


def test_the_tokenizers_of_a_model_are_read_without_its_weights(tmp_path, monkeypatch):
    for family, lengths in (
        ("epsilon", [tiny.LENGTH]),
        ("xl", [tiny.LENGTH] * 2),
        ("pixart", [300]),
        ("flux", [tiny.LENGTH, 512]),
        ("sana", [300]),
        ("z_image", [512]),
    ):
        folder = shutil.copytree(tiny.pipeline_folder(family), tmp_path / family)
        for weights in folder.rglob("*.safetensors"):
            weights.unlink()
        here = diffusion.tokenizers_here(str(folder), None)
        assert [tokenizer.length for tokenizer in here] == lengths
        loaded = [encoder.prompts for encoder in tiny.backend(family).encoders]
        for text in ("a crane", f"a {TOKEN} crane", "zebra", "red bird " * 200):
            assert [one.lost(text, 2) for one in here] == [one.lost(text, 2) for one in loaded]
            assert [one.count(text, 2) for one in here] == [one.count(text, 2) for one in loaded]
    assert diffusion.tokenizers_here(str(tmp_path / "none"), None) == []
    (tmp_path / "xl" / "model_index.json").write_text("{")
    assert diffusion.tokenizers_here(str(tmp_path / "xl"), None) == []


def test_word_norms_are_those_of_whole_words():
    backend = tiny.backend()
    (words,) = backend.word_norms()
    norms = {word: backend.word(word).norm().item() for word in ("photo", "crane", "cardinal", "water", "bird")}
    assert min(norms.values()) * 0.5 < words.mean_norm <= words.largest_norm
    assert words.largest_norm >= max(norms.values()) - 1e-6


def test_word_norms_are_the_same_to_the_last_bit_at_every_call():
    """The tokenizer's vocabulary comes in another order at every call; a sum must not."""
    assert len({tiny.backend().word_norms() for _ in range(20)}) == 1
    first = tiny.backend().words()
    assert all(torch.equal(tiny.backend().words(), first) for _ in range(5))


def test_every_part_of_a_model_is_loaded_in_the_dtype_asked_for():
    backend = diffusion.load(str(tiny.pipeline_folder()), dtype="bfloat16")
    assert {model.dtype for model in (backend.denoiser, backend.vae, backend.encoders[0].model)} == {torch.bfloat16}
    images = Sampler(backend, steps=2, guidance_scale=SCALE).generate([1], backend.encode(["a crane"]))
    assert images.dtype == torch.float32
    assert images.isfinite().all()


def test_sana_in_float16_keeps_what_would_overflow_in_another_precision():
    """As diffusers' documentation asks for: Gemma in bfloat16, the autoencoder in float32, and latents, too."""
    backend = diffusion.load(str(tiny.pipeline_folder("sana")), dtype="float16", memory="fast")
    kinds = [model.dtype for model in (backend.denoiser, backend.encoders[0].model, backend.vae)]
    assert kinds == [torch.float16, torch.bfloat16, torch.float32]
    assert backend.latents([1]).dtype == torch.float32
    vector = vectors(1, "sana")
    for prompt, token in (("a crane", None), (f"a {TOKEN} crane", vector)):
        images = from_backend(backend, prompt, [1], vector=token)
        expected = from_backend(tiny.backend("sana"), prompt, [1], vector=token)
        assert (images - expected).abs().mean() < 0.02


class TestErrors:
    """Each message names the value and what to do."""

    @pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "nothing", "~/no-such-dct-folder"])
    def test_a_missing_folder_is_named(self, path):
        with pytest.raises(ModelError, match=r"no model_index\.json") as caught:
            diffusion.load(path)
        assert repr(path) in str(caught.value)

    def test_a_folder_without_the_parts_of_a_pipeline_cannot_be_loaded(self, tmp_path):
        (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
        with pytest.raises(ModelError, match="cannot be loaded"):
            diffusion.load(str(tmp_path))

    def test_a_model_index_that_is_not_json_cannot_be_loaded(self, tmp_path):
        (tmp_path / "model_index.json").write_text("not json")
        with pytest.raises(ModelError, match="cannot be loaded"):
            diffusion.load(str(tmp_path))

    @pytest.mark.parametrize(("family", "word"), [("epsilon", " "), ("pixart", ""), ("pixart", "crane 鶴")])
    def test_a_start_word_that_the_vocabulary_lacks_is_refused(self, family, word):
        with pytest.raises(ModelError, match=f"tokens.init_word '{word}' is not in this model's vocabulary"):
            tiny.backend(family).word(word)

    @pytest.mark.parametrize("prompt", ["a photo of a crane", f"{TOKEN} and {TOKEN}", "a <class> crane", ""])
    def test_a_prompt_without_exactly_one_class_token_is_refused(self, prompt):
        with pytest.raises(ModelError, match="exactly one class token"):
            tiny.backend().encode([prompt], vectors(1)[None])

    @pytest.mark.parametrize("family", ["epsilon", "xl", "pixart", "sana", "z_image"])
    def test_a_prompt_that_would_be_cut_is_refused_and_what_would_be_lost_is_shown(self, family):
        backend = tiny.backend(family)
        room = backend.encoders[0].prompts.room
        backend.encode(["a " * (room - 1) + "crane"])
        for prompt, lost in (("a " * room + "red crane", "red crane"), ("a " * (room - 1) + "red crane", "crane")):
            with pytest.raises(ModelError, match=f"it would lose '{lost}'"):
                backend.encode([prompt])
            with pytest.raises(ModelError, match=f"it would lose '{lost}'"):
                backend.unconditional(prompt)
            with pytest.raises(ModelError, match=f"it would lose '{lost}'"):
                backend.encode([f"a {TOKEN} {prompt[6:]}"], vectors(2, family)[None])

    def test_a_token_beyond_the_end_of_the_prompt_is_refused(self):
        words = "a " * (tiny.LENGTH - 3)  # start, 21 words, one vector, end: just fits
        tiny.backend().encode([f"{words}{TOKEN}"], vectors(1)[None])
        with pytest.raises(ModelError, match=f"it would lose '{TOKEN} crane'"):
            tiny.backend().encode([f"{words}{TOKEN} crane"], vectors(2)[None])
        with pytest.raises(ModelError, match=f"it would lose '{TOKEN}'"):
            tiny.backend().encode([f"{words}a {TOKEN}"], vectors(1)[None])

    @pytest.mark.parametrize("shape", [(3, 1, tiny.WIDTH), (1, 1, 2 * tiny.WIDTH), (1, 1, tiny.WIDTH // 2)])
    def test_vectors_of_another_width_or_batch_are_refused(self, shape):
        with pytest.raises(ModelError, match=f"must be \\(1, n, {tiny.WIDTH}\\)"):
            tiny.backend().encode([f"a {TOKEN} crane"], torch.zeros(shape))

    @pytest.mark.parametrize("name", ["NoScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "torch"])
    def test_an_unknown_scheduler_is_refused_and_the_suitable_ones_named(self, name):
        with pytest.raises(ModelError, match=rf"'{name}' does not suit.*DDIMScheduler.*EulerDiscreteScheduler"):
            tiny.backend().scheduler(STEPS, name)

    def test_guidance_of_a_model_that_was_distilled_without_it_is_refused(self):
        with pytest.raises(ModelError, match=r"guidance_scale 4 does not suit .* Set sampling.guidance_scale to 1"):
            Sampler(tiny.backend("schnell"), steps=STEPS, guidance_scale=4.0)

    def test_a_model_of_an_unknown_family_is_refused_and_the_families_named(self, tmp_path):
        (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
        with pytest.raises(ModelError, match=r"is a WanPipeline; supported are: .*StableDiffusionXLPipeline"):
            diffusion.load(str(tmp_path))

    def test_pickled_weights_are_refused(self, tmp_path):
        folder = shutil.copytree(tiny.pipeline_folder(), tmp_path / "model")
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        torch.save({}, weights.with_suffix(".bin"))
        weights.unlink()
        with pytest.raises(ModelError, match="safetensors"):
            diffusion.load(str(folder))

    def test_a_hub_model_that_is_not_cached_cannot_be_loaded_offline(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(ModelError, match=r"'nobody/no-such-model' is not in .* and HF_HUB_OFFLINE is set"):
            diffusion.load("nobody/no-such-model")


def test_a_hub_model_is_taken_from_the_cache_with_revision_and_variant(tmp_path, monkeypatch):
    """The exact layout of the Hub's cache: refs, snapshots, and half-precision files named by variant."""
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--tiny--bird-model"
    snapshot = repository / "snapshots" / commit
    pipe = tiny.pipeline(dtype=torch.float16)
    pipe.save_pretrained(snapshot, variant="fp16", safe_serialization=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.HF_HUB_CACHE", str(tmp_path), raising=False)
    loaded = diffusion.load("tiny/bird-model", revision="v1", variant="fp16")
    images = [from_backend(backend, "a crane", [1]) for backend in (loaded, tiny.backend())]
    torch.testing.assert_close(*images, atol=0.05, rtol=0)
    with pytest.raises(ModelError, match="cannot be loaded"):
        diffusion.load("tiny/bird-model", revision="v2", variant="fp16")


def taken_away(model: torch.nn.Module) -> None:
    """Let a model be of no use on the CPU, as one that belongs on a GPU is, and of use where else it is sent."""
    kept = {name: weight.data for name, weight in model.named_parameters()}

    def to(place: str) -> None:
        for name, weight in model.named_parameters():
            weight.data = torch.full_like(kept[name], torch.nan) if place == "cpu" else kept[name]

    model.to = to  # type: ignore[method-assign, assignment]
    model.to("cpu")


class TestMemory:
    """Settings change memory and speed, never the images."""

    @pytest.mark.parametrize("family", ["epsilon", "xl", "pixart", "flux", "z_image"])
    @pytest.mark.parametrize("memory", ["low", "balanced"])
    def test_memory_settings_change_no_image_and_no_gradient(self, family, memory):
        size = tiny.image_size(family)
        backend = diffusion.load(str(tiny.pipeline_folder(family)), memory=memory, image_size=size)
        assert backend.memory == memory
        results = []
        for model in (backend, tiny.backend(family)):
            vector = vectors(1, family).requires_grad_()
            trajectory = new_sampler(model).begin([1], model.encode([f"a {TOKEN} crane"], vector[None]))
            model.decode(new_sampler(model).clean_step([trajectory])).square().sum().backward()
            results.append((from_backend(model, "a red bird", [3, 4]), vector.grad))
        torch.testing.assert_close(*results, atol=1e-4, rtol=1e-3)

    @pytest.mark.parametrize("family", tiny.FAMILIES)
    @pytest.mark.parametrize("autocast", [None, torch.bfloat16])
    def test_text_encoders_that_go_away_between_uses_give_the_same_gradient(self, family, autocast):
        device = "cpu:0"  # another name than where text encoders stay
        size = tiny.image_size(family)
        resting = diffusion.load(str(tiny.pipeline_folder(family)), device=device, memory="low", image_size=size)
        for encoder in resting.encoders:
            taken_away(encoder.model)
        assert resting.encoders[0].model.get_input_embeddings()(torch.tensor([[1]])).isnan().all()
        found = []
        for model in (resting, tiny.backend(family)):
            vector = vectors(2, family).requires_grad_()
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                encoded = model.encode([f"a {TOKEN} crane"], vector[None])
                values = [(tensor.float() ** 3).sum() for tensor in (encoded.hidden, *encoded.extra.values())]
            for _ in range(2):
                (gradient,) = torch.autograd.grad(torch.stack(values).sum(), vector, retain_graph=True)
            found.append((encoded.hidden.detach(), gradient))
        assert found[0][1].abs().max() > 0
        torch.testing.assert_close(*found, atol=0, rtol=0)

    def test_the_memory_setting_is_chosen_by_free_memory(self):
        assert [choose(100, free) for free in (10_000, 300, 299, 0)] == ["balanced", "balanced", "low", "low"]
        assert diffusion.load(str(tiny.pipeline_folder("epsilon"))).memory == "balanced"

    def test_a_batch_that_runs_out_of_memory_is_halved_and_no_item_lost(self):
        batch_sizes: list[int] = []
        messages: list[Any] = []

        def work(items):
            batch_sizes.append(len(items))
            if len(items) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return sum(items)

        batches = ShrinkingBatches(16, "image", messages.append)
        assert [result for _, result in batches.run(range(20), work)] == [1, 5, 9, 13, 17, 21, 25, 29, 33, 37]
        assert batch_sizes == [16, 8, 4, *[2] * 10]
        assert messages[-1].note == "out of memory: going on with 2 images at once"
        assert list(batches.run([7], work)) == [([7], 7)]

    def test_memory_too_little_for_a_single_item_is_one_message(self):
        def work(items):
            return torch.empty(2**50)  # the allocator's own error

        with pytest.raises(DctAugmentError, match=r"with a single image: set model\.memory=low"):
            list(ShrinkingBatches(4, "image").run([1, 2], work))

    def test_errors_that_are_not_about_memory_are_raised_as_they_are(self):
        def work(items):
            raise RuntimeError("shapes do not match")

        with pytest.raises(RuntimeError, match="shapes"):
            list(ShrinkingBatches(4, "image").run([1, 2], work))


def tiny_decoder(folder: Path, channels: int = 4, blocks: int = 2) -> str:
    torch.manual_seed(0)
    sizes = {f"{side}_block_out_channels": (8,) * blocks for side in ("encoder", "decoder")}
    sizes |= {f"num_{side}_blocks": (1,) * blocks for side in ("encoder", "decoder")}
    diffusers.AutoencoderTiny(latent_channels=channels, **sizes).save_pretrained(folder)
    return str(folder)


class TestTinyDecoder:
    """An AutoencoderTiny takes the gradient; images without a gradient come from the autoencoder itself."""

    def test_the_tiny_decoder_decodes_for_gradients_alone(self, tmp_path):
        path = tiny_decoder(tmp_path)
        backend = load(str(tiny.pipeline_folder()), tiny_decoder=path)
        latents = backend.latents([1, 2]).requires_grad_()
        expected = diffusers.AutoencoderTiny.from_pretrained(path).decode(latents).sample
        images = backend.decode(latents, for_gradient=True)
        torch.testing.assert_close(images, expected)
        (gradient,) = torch.autograd.grad(images.square().sum(), latents)
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(backend.decode(latents), tiny.backend().decode(latents))
        assert torch.equal(tiny.backend().decode(latents, for_gradient=True), tiny.backend().decode(latents))

    @pytest.mark.parametrize(("channels", "blocks", "message"), [(8, 2, "latents of 8 channels"), (4, 3, "to 4 times")])
    def test_a_tiny_decoder_of_another_model_is_refused(self, tmp_path, channels, blocks, message):
        with pytest.raises(ModelError, match=message):
            load(str(tiny.pipeline_folder()), tiny_decoder=tiny_decoder(tmp_path, channels, blocks))

    def test_a_missing_tiny_decoder_is_one_message(self, tmp_path):
        with pytest.raises(ModelError, match=r"model\.tiny_decoder .*nowhere.* cannot be loaded"):
            load(str(tiny.pipeline_folder()), tiny_decoder=str(tmp_path / "nowhere"))

    def test_the_tiny_decoder_of_pocket_gives_nearly_the_same_images(self):
        backend, exact = load("pocket", tiny_decoder="pocket"), load("pocket")
        latents = bird_latents(exact)
        images = [model.decode(latents, for_gradient=True) for model in (backend, exact)]
        assert (images[0] - images[1]).abs().mean() * 127.5 < 12
        assert exact.tiny is None


def bird_latents(backend):
    """Latents of a few Pocket birds."""
    sampler = Sampler(backend, steps=5, guidance_scale=3.0)
    trajectory = sampler.begin(range(4), backend.encode(["a photo of a kiwi"] * 4))
    sampler.advance([trajectory])
    return trajectory.latents


def test_compile_is_applied_to_the_denoiser_alone():
    backend = load(str(tiny.pipeline_folder()), compile=True)
    assert backend.denoiser._compiled_call_impl is not None
    assert backend.vae._compiled_call_impl is None


def test_a_pipeline_that_is_loaded_already_gives_the_back_end_of_its_folder():
    given = diffusion.from_pipeline(tiny.pipeline(), memory="low")
    encoded = [model.encode(["a photo of a crane"]).hidden for model in (given, tiny.backend())]
    assert torch.equal(*encoded)
    assert given.memory == "low"
    assert given.vae.use_slicing


def test_a_pipeline_of_no_supported_family_is_refused():
    with pytest.raises(ModelError, match="the pipeline is a DDPMPipeline; supported are: StableDiffusionPipeline, "):
        diffusion.from_pipeline(diffusers.DDPMPipeline(tiny.unet(16), diffusers.DDPMScheduler()))


class TestTrainingObjective:
    """The latents, noise levels and targets that a model was trained with."""

    @pytest.mark.parametrize("changes", [
        {},
        {"scaling_factor": 0.13, "shift_factor": 0.4},
        {"latents_mean": [0.1, -0.2, 0.3, 0.4], "latents_std": [0.5, 1.5, 2.0, 0.8], "shift_factor": -0.2},
    ])  # fmt: skip
    def test_decoding_undoes_the_encoding_of_pictures(self, tmp_path, changes):
        """Their mean decodes to what the autoencoder itself makes of its mean; the deviation is scaled alike."""
        folder = shutil.copytree(tiny.pipeline_folder(), tmp_path / "model")
        path = folder / "vae" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        backend, images = load(str(folder)), torch.rand(2, 3, tiny.IMAGE, tiny.IMAGE) * 2 - 1
        distribution = backend.vae.encode(images).latent_dist
        mean, deviation = backend.encode_images(images)
        assert not mean.requires_grad
        torch.testing.assert_close(
            backend.decode(mean), backend.vae.decode(distribution.mean).sample, atol=1e-4, rtol=0
        )
        beyond = backend.vae.decode(distribution.mean + distribution.std).sample
        torch.testing.assert_close(backend.decode(mean + deviation), beyond, atol=1e-4, rtol=0)
        std = torch.tensor(changes.get("latents_std", [1.0])).view(1, -1, 1, 1)
        torch.testing.assert_close(deviation, distribution.std * changes.get("scaling_factor", 0.5) / std)

    @pytest.mark.parametrize("family", DIFFUSION)
    @pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
    def test_the_right_output_at_every_training_noise_gives_the_clean_latents_back(self, tmp_path, family, kind):
        """The levels are those of the model's own training schedule, whatever its sampler makes of them."""
        folder = shutil.copytree(tiny.pipeline_folder(family), tmp_path / "model")
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": kind}))
        backend = load(str(folder))
        assert backend.training_steps == 1000
        settings = backend._scheduler.config
        power = {"linear": 1, "scaled_linear": 2}[settings.beta_schedule]
        first, last = (beta ** (1 / power) for beta in (settings.beta_start, settings.beta_end))
        betas = torch.linspace(first, last, 1000, dtype=torch.float64) ** power
        roots = (1 - betas).cumprod(0).sqrt()
        if settings.get("rescale_betas_zero_snr"):  # arXiv 2305.08891, algorithm 1
            roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
        timesteps = torch.tensor([0, 1, 300, 998])
        alpha = roots[timesteps].view(-1, 1, 1, 1).float()
        sigma = (1 - alpha**2).sqrt()
        clean, noise = (torch.randn(4, *tiny.LATENT) for _ in range(2))
        inputs, told, target = backend.noised(clean, noise, timesteps)
        assert torch.equal(told, timesteps)
        torch.testing.assert_close(inputs, alpha * clean + sigma * noise, atol=1e-4, rtol=0)
        back = {
            "epsilon": lambda: (inputs - sigma * target) / alpha,
            "v_prediction": lambda: alpha * inputs - sigma * target,
            "sample": lambda: target,
        }[kind]()
        torch.testing.assert_close(back[:3], clean[:3], atol=1e-3, rtol=0)

    @pytest.mark.parametrize(
        ("family", "shift"), [("sd3", 3.0), ("sd35", 1.0), ("flux", 1.0), ("sana", 3.0), ("z_image", 3.0)]
    )
    def test_a_flow_learns_from_the_levels_of_its_constant_shift_and_is_told_them(self, family, shift):
        backend, steps = tiny.backend(family), torch.tensor([0, 1, 300, 999])
        clean, noise = (torch.randn(4, *tiny.LATENT) for _ in range(2))
        inputs, told, target = backend.noised(clean, noise, steps)
        # As the training scripts of diffusers have it: the timesteps that a fresh scheduler lists, the noisiest first.
        fresh = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        torch.testing.assert_close(told, fresh.timesteps.flip(0)[steps], atol=1e-3, rtol=1e-6)
        levels = (told / 1000).view(-1, 1, 1, 1)
        torch.testing.assert_close(inputs, (1 - levels) * clean + levels * noise, atol=1e-5, rtol=0)
        torch.testing.assert_close(target, noise - clean)

    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
    def test_half_precision_has_the_noise_of_single_precision_at_every_timestep(self, kind):
        backend, timesteps = tiny.backend(), torch.arange(0, 1000, 9)
        noise = torch.randn(len(timesteps), *tiny.LATENT).to(kind)
        inputs, _, target = backend.noised(torch.zeros_like(noise), noise, timesteps)
        exact, _, _ = backend.noised(torch.zeros(noise.shape), noise.float(), timesteps)
        assert inputs.dtype == kind
        assert torch.equal(target, noise.float())
        torch.testing.assert_close(inputs.float(), exact, rtol=torch.finfo(kind).eps, atol=1e-6)
