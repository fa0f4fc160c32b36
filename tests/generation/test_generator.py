"""Plan rows to images: the same bytes again, whatever the restart; verdicts and failures land on the right row."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from dct_augment.config import PromptsConfig, SamplingConfig
from dct_augment.diffusion import Sampler
from dct_augment.diffusion.memory import BatchSizes
from dct_augment.errors import ModelError
from dct_augment.generation import plan
from dct_augment.generation.generator import Generator, noisy_token
from dct_augment.images import content
from dct_augment.records import ClassInfo, ClassToken, ImageKind
from tests import tiny

SAMPLING = SamplingConfig(num_inference_steps=4, guidance_scale=4.0)
PROMPTS = PromptsConfig(templates=("a photo of a {token} {class}{context}", "a drawing of a {token} {class}"))
NEGATIVE = "a green kiwi"


def vectors(seed: int = 1, count: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {info.slug: torch.randn(count, tiny.WIDTH, generator=generator) for info in tiny.CLASSES}


def rows(tokens: bool = True, per_class: int = 3):
    named = {info.slug: ClassToken(f"<dct-tiny-{info.slug}>", info.slug, "sha") for info in tiny.CLASSES}
    (shard,) = plan.extend((), tiny.CLASSES, per_class, 100)
    kind = ImageKind.CLASS_TOKEN if tokens else ImageKind.PLAIN_PROMPT
    return plan.rows(shard, kind, tiny.CLASSES, PROMPTS, named if tokens else {}, seed=0)


def generator(*, classifiers=False, sampling=SAMPLING, image_format=None) -> Generator:
    return Generator(
        Sampler.from_config(tiny.backend(), sampling, negative_prompt=NEGATIVE),
        classes=tiny.CLASSES,
        guide=tiny.classifier("test_resnet") if classifiers else None,
        judge=tiny.classifier("test_resnet", 24) if classifiers else None,
        image_format=image_format,
    )


def generate(work, planned, batch_size, chosen=None):
    return list(work.generate(planned, vectors() if chosen is None else chosen, batch_size))


def pixels(images) -> torch.Tensor:
    return torch.stack([pil_to_tensor(image.image) for image in images]).int()


def test_a_restarted_generator_makes_the_same_bytes():
    planned = rows()
    first, again = generate(generator(), planned, 4), generate(generator(), planned, 4)
    assert [image.row for image in first] == list(planned)
    assert [image.image.tobytes() for image in first] == [image.image.tobytes() for image in again]
    resumed = generate(generator(), planned[4:], 4)  # after a stop between batches
    assert [image.image.tobytes() for image in resumed] == [image.image.tobytes() for image in first[4:]]
    assert first[0].image.size == (tiny.IMAGE, tiny.IMAGE)
    assert len({image.image.tobytes() for image in first}) == len(planned)


@pytest.mark.parametrize("scheduler", [None, "DPMSolverMultistepScheduler"])
def test_the_batch_size_changes_at_most_one_grey_level(scheduler):
    sampling = SAMPLING.model_copy(update={"scheduler": scheduler})
    planned = rows()
    whole = pixels(generate(generator(sampling=sampling), planned, 100))
    for size in (1, 4):
        assert (pixels(generate(generator(sampling=sampling), planned, size)) - whole).abs().max() <= 1
    backwards = pixels(generate(generator(sampling=sampling), planned[::-1], 4)).flip(0)
    assert (backwards - whole).abs().max() <= 1


def test_pixels_are_those_of_the_pipeline(tmp_path):
    """Our PNG of a class-token row is, within a grey level, what diffusers makes from the saved token."""
    from safetensors.torch import save_file

    row, pipe = rows()[0], tiny.pipeline()
    save_file({"<dct-tiny-crane>": vectors(count=2)["crane"]}, tmp_path / "crane.safetensors")
    pipe.load_textual_inversion(tmp_path / "crane.safetensors")
    noise = torch.randn(tiny.LATENT, generator=torch.Generator().manual_seed(row.seed))[None]
    expected = pipe(
        row.prompt,
        negative_prompt=NEGATIVE,
        latents=noise,
        num_inference_steps=SAMPLING.num_inference_steps,
        guidance_scale=SAMPLING.guidance_scale,
    ).images[0]
    (ours,) = generate(generator(), [row], 1, vectors(count=2))
    assert (pil_to_tensor(ours.image).int() - pil_to_tensor(expected).int()).abs().max() <= 1


def test_classes_have_negative_prompts_of_their_own():
    planned, own = rows(), {info.slug: f"a {info.name} on the sand" for info in tiny.CLASSES}
    sampler = Sampler.from_config(tiny.backend(), SAMPLING, negative_prompt="")
    images = pixels(
        generate(
            Generator(sampler, classes=tiny.CLASSES, negatives={slug: (text, None) for slug, text in own.items()}),
            planned,
            4,
        )
    )
    for row, image in zip(planned, images, strict=True):
        of_class = Sampler.from_config(tiny.backend(), SAMPLING, negative_prompt=own[row.slug])
        alone = pixels(generate(Generator(of_class, classes=tiny.CLASSES), [row], 1))
        assert (alone[0] - image).abs().max() <= 1
    assert (images[0] - pixels(generate(generator(), planned[:1], 1))[0]).abs().max() > 1


def test_a_negative_prompt_may_hold_the_token_of_another_class(tmp_path):
    """Our image is what diffusers makes of both tokens, one in the prompt and one in the negative prompt."""
    from safetensors.torch import save_file

    row, pipe = rows()[0], tiny.pipeline()
    for slug in ("crane", "kiwi"):
        save_file({f"<dct-tiny-{slug}>": vectors()[slug]}, tmp_path / f"{slug}.safetensors")
        pipe.load_textual_inversion(tmp_path / f"{slug}.safetensors")
    prompt = "a photo of a <dct-tiny-kiwi> kiwi"
    expected = pipe(
        row.prompt,
        negative_prompt=prompt,
        latents=torch.randn(tiny.LATENT, generator=torch.Generator().manual_seed(row.seed))[None],
        num_inference_steps=SAMPLING.num_inference_steps,
        guidance_scale=SAMPLING.guidance_scale,
    ).images[0]
    negatives = dict.fromkeys(vectors(), ("", None)) | {"crane": (prompt, vectors()["kiwi"])}
    sampler = Sampler.from_config(tiny.backend(), SAMPLING, negative_prompt="")
    (ours,) = generate(Generator(sampler, classes=tiny.CLASSES, negatives=negatives), [row], 1)
    assert (pil_to_tensor(ours.image).int() - pil_to_tensor(expected).int()).abs().max() <= 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("batch_size", [2, 100])
def test_an_image_that_is_not_finite_fails_alone(bad, batch_size):
    broken = vectors()
    broken["kiwi"] = torch.full_like(broken["kiwi"], bad)
    planned = rows()
    images = generate(generator(classifiers=True), planned, batch_size, broken)
    whole = generate(generator(classifiers=True), planned, batch_size)
    assert [image.row for image in images] == list(planned)
    for image, sound in zip(images, whole, strict=True):
        if image.row.slug == "kiwi":
            assert (image.status, image.image, image.error) == ("failed", None, "image is not finite")
            assert image.guide_label == image.judge_label == ""
        else:
            assert (image.status, image.error) == ("ok", "")
            assert image.image.tobytes() == sound.image.tobytes()
            assert image.guide_label == sound.guide_label
            assert image.judge_confidence == pytest.approx(sound.judge_confidence, abs=1e-6)


def test_verdicts_are_the_classifiers_own():
    generated = generate(generator(classifiers=True), rows(), 4)
    images = pixels(generated) / 127.5 - 1
    for name, classifier in (("guide", tiny.classifier("test_resnet")), ("judge", tiny.classifier("test_resnet", 24))):
        chances = classifier.logits(images).softmax(1)
        for image, chance in zip(generated, chances, strict=True):
            label = {"crane": "Crane", "kiwi": "kiwi", "red-bird": "Red_Bird"}[image.row.slug]
            expected = chance[classifier.labels.index(label)].item()
            assert getattr(image, f"{name}_confidence") == pytest.approx(expected, abs=0.02)
            chosen = classifier.labels.index(getattr(image, f"{name}_label"))
            assert chance[chosen] >= chance.max() - 0.02  # the saved picture is rounded, the scored one is not
    assert len({round(image.guide_confidence, 3) for image in generated}) > 3
    assert any(image.guide_confidence != image.judge_confidence for image in generated)


def test_without_classifiers_there_are_no_verdicts():
    (image,) = generate(generator(), rows()[:1], 1)
    assert image.guide_label == ""
    assert image.guide_confidence != image.guide_confidence  # NaN


def test_images_come_with_their_files_if_a_format_is_given():
    """Encoded beside the next batch, on a GPU they cost no time of it."""
    planned = rows()[:3]
    for image in generate(generator(image_format="png"), planned, 2):
        assert Image.open(io.BytesIO(image.file.data)).tobytes() == image.image.tobytes()
        assert image.file.content == content(image.image)
    assert [image.file for image in generate(generator(), planned, 2)] == [None] * 3


def test_plain_and_token_images_start_from_the_same_noise():
    """With the embedding of a word as its token, a class-token row is the plain row of that word, to the byte."""
    named, plain = rows(), rows(tokens=False)
    assert [row.seed for row in named] == [row.seed for row in plain]
    assert len({row.seed for row in named}) == len(named)
    word = {info.slug: tiny.backend().word("green")[None] for info in tiny.CLASSES}
    tokens = generate(generator(), named, 3, word)
    green = PromptsConfig(templates=tuple(line.replace("{token}", "{token} green") for line in PROMPTS.templates))
    (shard,) = plan.extend((), tiny.CLASSES, 3, 100)
    spelled = generate(generator(), plan.rows(shard, ImageKind.PLAIN_PROMPT, tiny.CLASSES, green, {}, seed=0), 3, {})
    assert [image.image.tobytes() for image in tokens] == [image.image.tobytes() for image in spelled]
    assert (pixels(tokens) - pixels(generate(generator(), plain, 3, {}))).abs().max() > 0


def noisy_rows(share: float):
    return [replace(row, token_noise=share) for row in rows()]


def test_the_noise_on_a_token_has_its_length_in_the_part_of_each_encoder():
    vector = torch.randn(3, 500 + 3000, generator=torch.Generator().manual_seed(1))
    vector[:, 500:] *= 7
    lengths = []
    for seed in range(20):
        noise = noisy_token(vector, 0.1, seed, [500, 3000]) - vector
        lengths.append(
            [
                (part.norm(dim=1) / own.norm(dim=1)).mean().item()
                for part, own in ((noise[:, :500], vector[:, :500]), (noise[:, 500:], vector[:, 500:]))
            ]
        )
    torch.testing.assert_close(torch.tensor(lengths).mean(0), torch.full((2,), 0.1), rtol=0.01, atol=0)
    assert torch.equal(noisy_token(vector, 0.1, 3, [500, 3000]), noisy_token(vector, 0.1, 3, [500, 3000]))
    assert not torch.equal(noisy_token(vector, 0.1, 3, [500, 3000]), noisy_token(vector, 0.1, 4, [500, 3000]))
    latents = torch.randn(vector.shape, generator=torch.Generator().manual_seed(3))
    correlation = torch.corrcoef(
        torch.stack([(noisy_token(vector, 0.1, 3, [3500]) - vector).flatten(), latents.flatten()])
    )
    assert correlation[0, 1].abs() < 0.05  # it is not the noise of the latents


def test_an_image_has_noise_of_its_own_on_its_token():
    planned = noisy_rows(0.5)
    noisy = generate(generator(), planned, 4)
    assert [image.row.token_noise for image in noisy] == [0.5] * len(planned)
    row = planned[4]
    moved = noisy_token(vectors()[row.slug], 0.5, row.seed, [tiny.WIDTH])
    (expected,) = generate(generator(), [replace(row, token_noise=0.0)], 1, {row.slug: moved})
    assert np.abs(np.asarray(expected.image, int) - np.asarray(noisy[4].image, int)).max() <= 1
    assert (pixels(noisy) - pixels(generate(generator(), rows(), 4))).abs().amax((1, 2, 3)).min() > 1


def test_noise_on_tokens_is_the_same_in_every_restart_and_batch():
    planned = noisy_rows(0.5)
    first = generate(generator(), planned, 4)
    resumed = generate(generator(), planned[4:], 4)
    assert [image.image.tobytes() for image in resumed] == [image.image.tobytes() for image in first[4:]]
    for size in (1, 100):
        assert (pixels(generate(generator(), planned, size)) - pixels(first)).abs().max() <= 1


def test_a_plain_prompt_has_no_noise_on_a_token():
    named = {info.slug: ClassToken(f"<dct-tiny-{info.slug}>", info.slug, "sha") for info in tiny.CLASSES[:1]}
    (shard,) = plan.extend((), tiny.CLASSES, 2, 100)
    planned = plan.rows(shard, ImageKind.CLASS_TOKEN, tiny.CLASSES, PROMPTS, named, seed=0, token_noise=0.2)
    assert [row.token_noise for row in planned] == [0.2, 0, 0] * 2
    plain = rows(tokens=False)
    with_noise = plan.rows(shard, ImageKind.PLAIN_PROMPT, tiny.CLASSES, PROMPTS, {}, seed=0, token_noise=0.2)
    assert list(with_noise) == list(plain[: len(with_noise)])


def test_a_token_row_without_its_vector_is_an_error():
    """Never generate `<dct-...>` as if it were a word: the pieces of its name would be read as text."""
    with pytest.raises(ModelError, match="<dct-tiny-crane>"):
        generate(generator(), rows()[:1], 1, {})


def test_a_judge_that_does_not_know_a_class_is_refused_before_generating():
    with pytest.raises(ModelError, match="'gull'"):
        Generator(
            Sampler.from_config(tiny.backend(), SAMPLING, negative_prompt=""),
            classes=[*tiny.CLASSES, ClassInfo(3, "gull", "gull")],
            judge=tiny.classifier("test_resnet"),
        )


def test_little_memory_gives_the_same_images_in_smaller_batches():
    backend, planned = tiny.backend(), rows()
    asked: list[Any] = []
    told: list[Any] = []
    whole = pixels(generate(generator(), planned, 100))

    def refuse(module, args):
        asked.append(len(args[0]))
        if len(args[0]) > 6:  # two images an image under guidance
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = backend.denoiser.register_forward_pre_hook(refuse)
    try:
        work = generator()
        work._on_progress = told.append
        generated = generate(work, planned, 100)
        again = len(asked)
        generate(work, planned, 100)
    finally:
        handle.remove()
        backend.batch_sizes = BatchSizes()  # other tests share this model, with all its memory
    assert [image.row for image in generated] == list(planned)
    assert (pixels(generated) - whole).abs().max() <= 1
    assert [progress.note.split(": ")[1] for progress in told] == [
        "going on with 4 images at once",
        "going on with 2 images at once",
    ]
    assert max(asked[again:]) <= 6  # the next shard does not try again
