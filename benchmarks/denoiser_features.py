"""How well the features of the denoiser tell classes apart from five photos each, against those of the backbone.

    OMP_NUM_THREADS=1 python -m benchmarks.denoiser_features

On each tuning draw, logistic regression is fitted to the photos and tested on the validation photos. Features of the
denoiser are mean, deviation and maximum of a block's output over places, for photos with noise of a training timestep
on them and the prompt "a photo"; the block and the timestep are the best of all on the validation photos themselves,
which flatters them. The backbone has its own features alone.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import dct_augment
from dct_augment.classifiers import backbones
from dct_augment.diffusion import Backend
from dct_augment.images import square, to_tensor
from dct_augment.records import Example

TIMESTEPS, BATCH = (50, 150, 300), 32
DRAWS = range(1000, 1004)


def of_denoiser(model: Backend, photos: Sequence[Example]) -> dict[str, np.ndarray]:
    """The features (N, D) of each block at each timestep."""
    denoiser = model.denoiser
    blocks = {"middle": denoiser.mid_block}
    blocks |= {f"down {number}": block for number, block in enumerate(denoiser.down_blocks)}
    blocks |= {f"up {number}": block for number, block in enumerate(denoiser.up_blocks)}
    outputs: dict[str, torch.Tensor] = {}

    def keep(name):
        return lambda module, inputs, output: outputs.update({name: output[0] if isinstance(output, tuple) else output})

    hooks = [block.register_forward_hook(keep(name)) for name, block in blocks.items()]
    found: dict[str, list[torch.Tensor]] = {}
    prompt = model.encode(["a photo"])
    with torch.no_grad():
        for start in range(0, len(photos), BATCH):
            pictures = torch.cat([square(photo.open(), model.image_size) for photo in photos[start : start + BATCH]])
            latents, _ = model.encode_images(pictures)
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(start))
            for timestep in TIMESTEPS:
                timesteps = torch.full((len(latents),), timestep)
                inputs, _, _ = model.noised(latents, noise, timesteps)
                model.denoise(inputs, timesteps, prompt.expand(len(latents)), 1.0)
                for name, output in outputs.items():
                    parts = [output.mean((2, 3)), output.std((2, 3)), output.amax((2, 3))]
                    found.setdefault(f"{name}, timestep {timestep}", []).append(torch.cat(parts, 1))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def of_backbone(name: str, photos: Sequence[Example]) -> dict[str, np.ndarray]:
    """The features (N, D) of a backbone."""
    backbone = backbones.load(name, setting="guide.backbone")
    with torch.no_grad():
        inputs = torch.cat([backbone.preprocess(to_tensor(photo.open())) for photo in photos])
        return {name: backbone.model(inputs).numpy()}


def accuracy(train: np.ndarray, labels: Sequence[int], val: np.ndarray, truth: Sequence[int]) -> float:
    """The accuracy of logistic regression on features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    return float(model.fit(train, labels).score(val, truth))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["pocket", "digits"])
    parser.add_argument("--shots", type=int, default=5)
    options = parser.parse_args()
    model = dct_augment.load_text_to_image("pocket")
    print("| data set | features | validation accuracy, % |\n| --- | --- | --- |")
    for name in options.datasets:
        dataset = dct_augment.load_dataset(name)
        found: dict[str, list[float]] = {}
        for seed in DRAWS:
            split = dct_augment.few_shot(dataset, shots=options.shots, seed=seed)
            labels, truth = ([photo.label for photo in photos] for photos in (split.train, split.val))
            train = of_denoiser(model, split.train) | of_backbone("pocket/backbone", split.train)
            val = of_denoiser(model, split.val) | of_backbone("pocket/backbone", split.val)
            for features, values in train.items():
                found.setdefault(features, []).append(accuracy(values, labels, val[features], truth))
        means = {features: sum(values) / len(values) for features, values in found.items()}
        own = means.pop("pocket/backbone")
        best = max(means, key=means.__getitem__)
        print(f"| {name} | denoiser: {best} | {100 * means[best]:.1f} |")
        print(f"| {name} | pocket/backbone | {100 * own:.1f} |", flush=True)


if __name__ == "__main__":
    main()
