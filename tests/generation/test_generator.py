"""Plan rows to samples: the same bytes again, whatever the restart; verdicts and failures land on the right row."""

import pytest
import torch
from torchvision.transforms.functional import pil_to_tensor

from dct_augment.config import PromptsConfig, SamplingConfig
from dct_augment.errors import ModelError
from dct_augment.generation import plan
from dct_augment.generation.generator import Generator
from dct_augment.records import ClassInfo, ClassToken
from tests import tiny

SAMPLING = SamplingConfig(num_inference_steps=4, guidance_scale=4.0)
PROMPTS = PromptsConfig(templates=("a photo of a {token} {class}{context}", "a drawing of a {token} {class}"))
NEGATIVE = "a green kiwi"


def vectors(seed: int = 1, count: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {info.slug: torch.randn(count, tiny.WIDTH, generator=generator) for info in tiny.CLASSES}


def rows(tokens: bool = True, per_class: int = 3):
    named = {info.slug: ClassToken(f"<dct-tiny-{info.slug}>", info.slug, "sha") for info in tiny.CLASSES}
    (shard,) = plan.extend((), "train", tiny.CLASSES, per_class, 100)
    return plan.rows(shard, tiny.CLASSES, PROMPTS, named if tokens else {}, seed=0)


def generator(*, classifiers=False, sampling=SAMPLING) -> Generator:
    return Generator(
        tiny.backend(),
        sampling=sampling,
        negative=NEGATIVE,
        classes=tiny.CLASSES,
        guide=tiny.classifier("test_resnet") if classifiers else None,
        judge=tiny.classifier("test_resnet", 24) if classifiers else None,
    )


def draw(work, wanted, batch_size, chosen=None):
    return list(work.draw(wanted, vectors() if chosen is None else chosen, batch_size))


def pixels(samples) -> torch.Tensor:
    return torch.stack([pil_to_tensor(sample.image) for sample in samples]).int()


def test_a_restarted_generator_draws_the_same_bytes():
    wanted = rows()
    first, again = draw(generator(), wanted, 4), draw(generator(), wanted, 4)
    assert [sample.row for sample in first] == list(wanted)
    assert [sample.image.tobytes() for sample in first] == [sample.image.tobytes() for sample in again]
    resumed = draw(generator(), wanted[4:], 4)  # after a stop between batches
    assert [sample.image.tobytes() for sample in resumed] == [sample.image.tobytes() for sample in first[4:]]
    assert first[0].image.size == (tiny.IMAGE, tiny.IMAGE)
    assert len({sample.image.tobytes() for sample in first}) == len(wanted)


@pytest.mark.parametrize("scheduler", [None, "DPMSolverMultistepScheduler"])
def test_the_batch_size_changes_at_most_one_grey_level(scheduler):
    sampling = SAMPLING.model_copy(update={"scheduler": scheduler})
    wanted = rows()
    whole = pixels(draw(generator(sampling=sampling), wanted, 100))
    for size in (1, 4):
        assert (pixels(draw(generator(sampling=sampling), wanted, size)) - whole).abs().max() <= 1
    backwards = pixels(draw(generator(sampling=sampling), wanted[::-1], 4)).flip(0)
    assert (backwards - whole).abs().max() <= 1


def test_pixels_are_those_of_the_pipeline(tmp_path):
    """Our PNG of a class-token row is, within a grey level, what diffusers draws from the saved token."""
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
    (ours,) = draw(generator(), [row], 1, vectors(count=2))
    assert (pil_to_tensor(ours.image).int() - pil_to_tensor(expected).int()).abs().max() <= 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("batch_size", [2, 100])
def test_an_image_that_is_not_finite_fails_alone(bad, batch_size):
    broken = vectors()
    broken["kiwi"] = torch.full_like(broken["kiwi"], bad)
    wanted = rows()
    samples = draw(generator(classifiers=True), wanted, batch_size, broken)
    whole = draw(generator(classifiers=True), wanted, batch_size)
    assert [sample.row for sample in samples] == list(wanted)
    for sample, sound in zip(samples, whole, strict=True):
        if sample.row.slug == "kiwi":
            assert (sample.status, sample.image, sample.error) == ("failed", None, "image is not finite")
            assert sample.guide_label == sample.judge_label == ""
        else:
            assert (sample.status, sample.error) == ("ok", "")
            assert sample.image.tobytes() == sound.image.tobytes()
            assert sample.guide_label == sound.guide_label
            assert sample.judge_confidence == pytest.approx(sound.judge_confidence, abs=1e-6)


def test_verdicts_are_the_classifiers_own():
    samples = draw(generator(classifiers=True), rows(), 4)
    images = pixels(samples) / 127.5 - 1
    for name, classifier in (("guide", tiny.classifier("test_resnet")), ("judge", tiny.classifier("test_resnet", 24))):
        chances = classifier.logits(images).softmax(1)
        for sample, chance in zip(samples, chances, strict=True):
            label = {"crane": "Crane", "kiwi": "kiwi", "red-bird": "Red_Bird"}[sample.row.slug]
            expected = chance[classifier.labels.index(label)].item()
            assert getattr(sample, f"{name}_confidence") == pytest.approx(expected, abs=0.02)
            chosen = classifier.labels.index(getattr(sample, f"{name}_label"))
            assert chance[chosen] >= chance.max() - 0.02  # the saved picture is rounded, the scored one is not
    assert len({round(sample.guide_confidence, 3) for sample in samples}) > 3
    assert any(sample.guide_confidence != sample.judge_confidence for sample in samples)


def test_without_classifiers_there_are_no_verdicts():
    (sample,) = draw(generator(), rows()[:1], 1)
    assert sample.guide_label == ""
    assert sample.guide_confidence != sample.guide_confidence  # NaN


def test_plain_and_token_images_start_from_the_same_noise():
    """With the embedding of a word as its token, a class-token row is the plain row of that word, to the byte."""
    named, plain = rows(), rows(tokens=False)
    assert [row.seed for row in named] == [row.seed for row in plain]
    assert len({row.seed for row in named}) == len(named)
    word = {info.slug: tiny.backend().word("green")[None] for info in tiny.CLASSES}
    tokens = draw(generator(), named, 3, word)
    green = PromptsConfig(templates=tuple(line.replace("{token}", "{token} green") for line in PROMPTS.templates))
    (shard,) = plan.extend((), tiny.CLASSES, 3, 100)
    spelled = draw(generator(), plan.rows(shard, tiny.CLASSES, green, {}, seed=0), 3, {})
    assert [one.image.tobytes() for one in tokens] == [one.image.tobytes() for one in spelled]
    assert (pixels(tokens) - pixels(draw(generator(), plain, 3, {}))).abs().max() > 0


def test_a_token_row_without_its_vector_is_an_error():
    """Never draw `<dct-...>` as if it were a word: the pieces of its name would be read as text."""
    with pytest.raises(ModelError, match="<dct-tiny-crane>"):
        draw(generator(), rows()[:1], 1, {})


def test_a_judge_that_does_not_know_a_class_is_refused_before_drawing():
    with pytest.raises(ModelError, match="'gull'"):
        Generator(
            tiny.backend(),
            sampling=SAMPLING,
            negative="",
            classes=[*tiny.CLASSES, ClassInfo(3, "gull", "gull")],
            judge=tiny.classifier("test_resnet"),
        )


def test_little_memory_gives_the_same_images_in_smaller_batches():
    backend, wanted, asked, told = tiny.backend(), rows(), [], []
    whole = pixels(draw(generator(), wanted, 100))

    def refuse(module, args):
        asked.append(len(args[0]))
        if len(args[0]) > 6:  # two samples an image under guidance
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = backend.denoiser.register_forward_pre_hook(refuse)
    try:
        work = generator()
        work._report = told.append
        drawn = draw(work, wanted, 100)
        again = len(asked)
        draw(work, wanted, 100)
    finally:
        handle.remove()
    assert [sample.row for sample in drawn] == list(wanted)
    assert (pixels(drawn) - whole).abs().max() <= 1
    assert [one.note.split(": ")[1] for one in told] == [
        "going on with 4 images at once",
        "going on with 2 images at once",
    ]
    assert max(asked[again:]) <= 6  # the next shard does not try again
