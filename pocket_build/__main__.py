"""Rebuild every shipped Pocket weight from seeds.

    python -m pocket_build                  # into the package, checkpoints in build/pocket
    python -m pocket_build --out /tmp/pocket --steps-scale 0.01
    python -m pocket_build --only backbone  # or winter: the files and figures of all others stay

Stopped at any moment, the same command goes on from the last checkpoint.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dct_augment import pocket
from pocket_build import (
    autoencoder,
    backbone,
    card,
    classifiers,
    export,
    quality,
    text_to_image,
    tiny_decoder,
    world,
)


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m pocket_build", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=pocket.path().parent, help="where the weights go")
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="checkpoints; may be deleted after")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of torch: cpu, cuda")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps-scale", type=float, default=1.0, help="train this share of all steps, to try it out")
    parser.add_argument("--measure-only", action="store_true", help="measure what is in --out and rewrite its card")
    parser.add_argument(
        "--only", choices=("backbone", "winter"), help="build, or measure, the backbone or winter's classifiers alone"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if not options.measure_only:
        _builders()[options.only](options.out, options.work, options.steps_scale, options.device)
    if options.only is None:
        measured = measure(options.out, options.device)
    else:
        measured = json.loads((options.out / "quality.json").read_text(encoding="utf-8"))
    if options.only == "winter":
        measure_classifiers(options.out, measured, "winter", options.device)
    else:
        measured["backbone"] = quality.backbone(options.out, options.device)
    card.write(options.out, measured)
    print(
        f"done in {(time.monotonic() - began) / 60:.0f} min, {export.size(options.out) / 1e6:.1f} MB in {options.out}"
    )


def _steps(full: int, scale: float) -> int:
    return max(2, round(full * scale))


def _builders() -> dict[str | None, Callable[[Path, Path, float, str], None]]:
    return {None: build, "backbone": build_backbone, "winter": partial(build_classifiers, subject="winter")}


def build_classifiers(out: Path, work: Path, scale: float = 1.0, device: str = "cpu", *, subject: str) -> None:
    """Train the guide and the judge of a subject and export them to `out`."""
    for recipe in classifiers.of(subject):
        model = classifiers.train(recipe, work, steps=_steps(recipe.steps, scale), device=device)
        export.classifier(out / recipe.name, recipe, model)


def build_backbone(out: Path, work: Path, scale: float = 1.0, device: str = "cpu") -> None:
    """Train the backbone and export it to `out`."""
    model = backbone.train(work, steps=_steps(backbone.STEPS, scale), device=device)
    export.backbone(out / pocket.BACKBONE, model)


def build(out: Path, work: Path, scale: float = 1.0, device: str = "cpu") -> None:
    """Train everything that has no finished checkpoint in `work`, and export it to `out`."""

    def steps(full: int) -> int:
        return _steps(full, scale)

    build_backbone(out, work, scale, device)
    pictures = world.render(work)
    for subject in classifiers.LABELS:
        build_classifiers(out, work, scale, device, subject=subject)
    vae = autoencoder.train(pictures, work, steps=steps(autoencoder.STEPS), device=device)
    words = text_to_image.tokenizer()
    latents = autoencoder.encode(vae, pictures) * vae.config.scaling_factor
    text, unet = text_to_image.train(pictures, latents, words, work, scale=scale, device=device)
    export.tiny_decoder(
        out / pocket.TINY_DECODER,
        tiny_decoder.train(vae, latents, work, steps=steps(tiny_decoder.STEPS), device=device),
    )
    export.pipeline(out / pocket.TEXT_TO_IMAGE, words, text, unet, vae)


def measure(out: Path, device: str = "cpu") -> dict[str, object]:
    """The checks in the order in which things can go wrong."""
    clean = quality.clean(out, device)
    print("real pictures", json.dumps(clean))
    copies = quality.reconstructed(out, device)
    print("autoencoder copies", json.dumps(copies))
    described, plain = quality.capability(out, device)
    return {
        "real pictures": clean,
        "autoencoder copies": copies,
        "described": described,
        "plain": plain,
        "described by group": quality.by_group(described),
        "plain by group": quality.by_group(plain),
    }


def measure_classifiers(out: Path, measured: dict[str, Any], subject: str, device: str = "cpu") -> None:
    """Put the figures of a subject's classifiers among those that were measured before."""
    recipes = classifiers.of(subject)
    measured["real pictures"] |= quality.clean(out, device, recipes)
    measured["autoencoder copies"] |= quality.reconstructed(out, device, recipes)
    print(subject, json.dumps({key: measured[key] for key in ("real pictures", "autoencoder copies")}))


if __name__ == "__main__":
    main()
