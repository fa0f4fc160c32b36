"""Class tokens by several settings, judged on fresh noise: accuracy, U-Net evaluations, seconds.

    python -m benchmarks.token_methods --config pocket --variant tokens.slots=8 --variant tokens.method=last_step

Each variant is a list of `section.key=value`, separated by semicolons. All variants run in one process, one after
the other, so their seconds can be compared.
"""

import argparse
import time
from collections.abc import Sequence

import torch

from dct_augment import classifiers, config, datasets, diffusion, prompts
from dct_augment.config import Config, seed_from
from dct_augment.records import ClassInfo
from dct_augment.tokens import TokenTrainer


def main() -> None:
    """Train the classes of a configuration once per variant and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token_methods", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="pocket")
    parser.add_argument("--classes", help="comma-separated; all if not given")
    parser.add_argument("--variant", action="append", default=[], help="settings, separated by semicolons; repeatable")
    parser.add_argument("--judge-images", type=int, default=60, help="fresh images per class, before and after")
    parser.add_argument("--details", action="store_true", help="a row per class")
    options = parser.parse_args()
    classes = options.classes.split(",") if options.classes else None
    print("| settings | classes | plain | token | worst class | U-Net evaluations / class | seconds / class |")
    print("|---|---|---|---|---|---|---|")
    for variant in options.variant or [""]:
        settings = config.load(options.config, [part for part in variant.split(";") if part], classes=classes)
        measure(settings, variant, options.judge_images, options.details)


def measure(settings: Config, title: str, images: int, details: bool) -> None:
    """Train and judge one variant; print its row."""
    classes = datasets.select(datasets.load(settings.dataset.name), settings.dataset.classes)
    backend = diffusion.load(settings.model.path)
    guide, judge = classifiers.load(settings.guide), classifiers.load(settings.judge)  # type: ignore[arg-type]
    trainer = TokenTrainer(
        backend, guide, settings=settings.tokens, sampling=settings.sampling, prompting=settings.prompts
    )
    began = time.perf_counter()
    results = list(trainer.train(classes))
    seconds = time.perf_counter() - began
    plain, token = [], []
    for trained in results:
        plain.append(_judged(settings, backend, judge, trained.info, None, images))
        token.append(_judged(settings, backend, judge, trained.info, trained.vector, images))
        if details:
            fate = f"{trained.reason}, {trained.attempts} attempts, {trained.updates} updates"
            row = [
                f"- {trained.info.name}",
                fate,
                f"{plain[-1]:.2f}",
                f"{token[-1]:.2f}",
                "",
                f"{trained.evaluations:,}",
            ]
            print(f"| {' | '.join(row)} | |", flush=True)
    count = len(results)
    spent = sum(trained.evaluations for trained in results) / count
    print(f"| {title or 'default'} | {count} | {sum(plain) / count:.3f} | {sum(token) / count:.3f} | "
          f"{min(token):.2f} | {spent:,.0f} | {seconds / count:.1f} |", flush=True)  # fmt: skip


@torch.no_grad()
def _judged(
    settings: Config,
    backend: diffusion.Backend,
    judge: classifiers.Classifier,
    info: ClassInfo,
    vector: torch.Tensor | None,
    count: int,
) -> float:
    """Share of fresh images that the judge recognises; vector (n, d), or None for the plain prompt."""
    lines = _prompts(settings, info, count, "<dct-x>" if vector is not None else None)
    conditioning = backend.encode(lines, None if vector is None else vector.expand(count, -1, -1))
    images = diffusion.sample(
        backend,
        [seed_from("fresh", info.slug, number) for number in range(count)],
        conditioning,
        backend.unconditional(settings.prompts.negative),
        steps=settings.sampling.num_inference_steps,
        scale=settings.sampling.guidance_scale,
        scheduler=settings.sampling.scheduler,
    )
    (target,) = judge.targets([info])
    return (judge.logits(images).argmax(1) == target).float().mean().item()


def _prompts(settings: Config, info: ClassInfo, count: int, token: str | None) -> Sequence[str]:
    chosen = (prompts.choose(settings.prompts.templates, settings.prompts.contexts, n) for n in range(count))
    return [prompts.build(template, info.name, token=token, context=context) for template, context in chosen]


if __name__ == "__main__":
    main()
