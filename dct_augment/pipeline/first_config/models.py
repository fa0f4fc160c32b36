"""Chooses the text-to-image model that fits a machine, with settings that suit it."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dct_augment import files
from dct_augment.errors import ModelError
from dct_augment.pocket import captions
from dct_augment.wording import hub_is_offline, listed

POCKET = "pocket"
_GB = 10**9
_POCKET_SIDE = 128
"""Pixels. Pocket draws pictures of 64; who has larger ones of a bat or a kiwi has photographs."""


@dataclass(frozen=True)
class ModelSize:
    """What the cost of a model goes by: sides of its images and latents in pixels, and weights of its denoiser."""

    side: int
    latent_side: int
    weights: int


@dataclass(frozen=True)
class ModelFamily:
    """How models of one kind are used, and what they need.

    `gpu_bytes` is the free memory of a GPU for its training in `gpu_dtype`, in which it does not overflow. An
    evaluation of its denoiser for one image takes `1 / gpu_rate` seconds on a GPU, and `core_seconds` on one core of a
    CPU: round numbers, for estimates, of a model of the usual `size`.
    """

    title: str
    steps: int
    guidance_scale: float
    gpu_bytes: int
    gpu_rate: float
    core_seconds: float
    classes_per_batch: int
    batch_size: int
    size: ModelSize
    takes_guidance: bool = False
    gpu_dtype: str = "float16"


_VARIANTS = ("fp16", "bf16")
_USUAL = ModelSize(512, 64, 860_000_000)
POCKET_FAMILY = ModelFamily("Pocket", 5, 1.5, 0, 1000, 0.01, 8, 50, ModelSize(64, 8, 4_300_000))
STABLE_DIFFUSION = ModelFamily("Stable Diffusion", 30, 7.0, 6 * _GB, 20, 20, 4, 8, _USUAL)
TURBO = ModelFamily("Stable Diffusion Turbo", 2, 1.0, 6 * _GB, 20, 20, 4, 8, _USUAL)
LCM = ModelFamily("a latent consistency model", 4, 7.0, 6 * _GB, 20, 20, 4, 8, _USUAL, takes_guidance=True)
SDXL = ModelFamily("Stable Diffusion XL", 30, 7.0, 22 * _GB, 4, 90, 1, 4, ModelSize(1024, 128, 2_570_000_000))
SDXL_TURBO = ModelFamily("SDXL-Turbo", 2, 1.0, 22 * _GB, 10, 45, 2, 8, ModelSize(512, 64, 2_570_000_000))
PIXART = ModelFamily("PixArt-Sigma", 20, 4.5, 22 * _GB, 8, 45, 2, 8, ModelSize(1024, 128, 610_000_000))
SD3 = ModelFamily("Stable Diffusion 3", 28, 4.5, 24 * _GB, 5, 90, 1, 4, ModelSize(1024, 128, 2_500_000_000))
SD3_TURBO = ModelFamily(
    "Stable Diffusion 3.5 Turbo", 4, 1.0, 40 * _GB, 2, 200, 1, 2, ModelSize(1024, 128, 8_100_000_000)
)
_FLUX = ModelSize(1024, 128, 11_900_000_000)
FLUX = ModelFamily("FLUX.1-dev", 28, 3.5, 48 * _GB, 1, 400, 1, 1, _FLUX, takes_guidance=True, gpu_dtype="bfloat16")
FLUX_SCHNELL = ModelFamily(
    "FLUX.1-schnell", 4, 1.0, 48 * _GB, 1, 400, 1, 1, _FLUX, takes_guidance=True, gpu_dtype="bfloat16"
)
SANA = ModelFamily("SANA", 20, 4.5, 22 * _GB, 10, 60, 2, 8, ModelSize(1024, 32, 1_600_000_000), gpu_dtype="bfloat16")
_Z_IMAGE = ModelSize(1024, 128, 6_150_000_000)
Z_IMAGE = ModelFamily("Z-Image", 50, 5.0, 24 * _GB, 2, 200, 1, 2, _Z_IMAGE, gpu_dtype="bfloat16")
Z_IMAGE_TURBO = ModelFamily("Z-Image-Turbo", 8, 1.0, 24 * _GB, 2, 200, 1, 2, _Z_IMAGE, gpu_dtype="bfloat16")

BY_PIPELINE: Mapping[str, tuple[ModelFamily, ModelFamily]] = {
    "StableDiffusionPipeline": (STABLE_DIFFUSION, TURBO),
    "StableDiffusionXLPipeline": (SDXL, SDXL_TURBO),
    "LatentConsistencyModelPipeline": (LCM, LCM),
    "PixArtSigmaPipeline": (PIXART, PIXART),
    "StableDiffusion3Pipeline": (SD3, SD3_TURBO),
    "FluxPipeline": (FLUX, FLUX_SCHNELL),
    "ZImagePipeline": (Z_IMAGE, Z_IMAGE_TURBO),
    "SanaPipeline": (SANA, SANA),
}
"""The families by the class that model_index.json names: with many steps, and distilled to a few."""


@dataclass(frozen=True)
class KnownModel:
    """A published model: its id on the Hub, the files of its weights, and what its licence restricts."""

    path: str
    family: ModelFamily
    variant: str | None = "fp16"
    restriction: str = ""


_NON_COMMERCIAL = "its licence is for non-commercial use"
KNOWN = (
    KnownModel("stabilityai/sdxl-turbo", SDXL_TURBO, restriction=_NON_COMMERCIAL),
    KnownModel("stable-diffusion-v1-5/stable-diffusion-v1-5", STABLE_DIFFUSION),
    KnownModel("stabilityai/sd-turbo", TURBO, restriction=_NON_COMMERCIAL),
)
"""Models to choose from, the one to prefer first."""

_DEFAULT = KNOWN[1]
FAST = KNOWN[2]


@dataclass(frozen=True)
class Machine:
    """What a machine has.

    `gpu_bytes` is the free memory of its GPU, None without one. `cached` are the folders of the models in the Hub's
    cache, by their ids. `offline` is whether nothing may be downloaded.
    """

    gpu_bytes: int | None
    cores: int
    cached: Mapping[str, Path]
    offline: bool

    @classmethod
    def here(cls) -> "Machine":
        """Look at this machine; loads torch, to ask it for a GPU."""
        import torch

        gpu_bytes = int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None
        return cls(gpu_bytes, len(os.sched_getaffinity(0)), cached_models(), hub_is_offline())

    def missing(self, repositories: Iterable[str]) -> list[str]:
        """List the repositories of the Hub that can be had neither from the cache nor from the Hub."""
        return [repository for repository in repositories if repository not in self.cached] if self.offline else []

    def seconds(self, family: ModelFamily, evaluations: int, size: ModelSize | None = None) -> float:
        """Estimate how long evaluations of a denoiser take here; of the family's usual size, if none is given.

        No model is taken to be faster than Pocket: of a small one, the time is that of its calls.
        """
        share = 1.0 if size is None else _share(size, family.size)
        if self.gpu_bytes is not None:
            return evaluations * max(share / family.gpu_rate, 1 / POCKET_FAMILY.gpu_rate)
        return evaluations * max(share * family.core_seconds, POCKET_FAMILY.core_seconds) / self.cores


def _share(size: ModelSize, usual: ModelSize) -> float:
    """How much an evaluation costs of that of the usual size: by weights, and by pixels of the latents."""
    return (size.weights / usual.weights) * (size.latent_side / usual.latent_side) ** 2


def cached_models() -> dict[str, Path]:
    """Find the newest snapshot of every model with weights in the Hub's cache, by its id."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    found = {}
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        revisions = sorted(repository.revisions, key=lambda revision: revision.last_modified)
        if repository.repo_type != "model" or not revisions:
            continue
        names = [file.file_name for file in revisions[-1].files]
        if any(name.endswith((".safetensors", ".bin")) for name in names):
            found[repository.repo_id] = Path(revisions[-1].snapshot_path)
    return found


@dataclass(frozen=True)
class ModelChoice:
    """A text-to-image model with its settings, and why it was chosen, in words.

    `restriction` is what its licence does not allow.
    """

    path: str
    family: ModelFamily
    variant: str | None
    dtype: str
    reason: str
    restriction: str = ""


def choose(
    machine: Machine, class_names: Sequence[str], picture_side: int, requested: str | None = None
) -> ModelChoice:
    """Choose the text-to-image model.

    Pocket is taken where it knows all classes and the pictures are as small as its own. Otherwise the first model
    that fits the free memory, one in the Hub's cache before others. Without a GPU it is Stable Diffusion 1.5.

    Args:
        machine: what there is.
        class_names: what prompts call the classes.
        picture_side: longer side of the median picture, in pixels; 0 if it is not known.
        requested: `pocket`, a folder that diffusers saved, or an id on the Hub; the user's own choice.

    Raises:
        ModelError: the requested model is no such thing.
    """
    unknown = unknown_to_pocket(class_names)
    if requested is not None:
        return _requested(requested, machine, unknown)
    if not unknown and picture_side <= _POCKET_SIDE:
        return _pocket("it knows all of these classes")
    models = _candidates(machine)
    fitting = [
        model for model in models if machine.gpu_bytes is not None and model.family.gpu_bytes <= machine.gpu_bytes
    ]
    if not fitting:
        model = _DEFAULT if _DEFAULT.path in machine.cached or FAST.path not in machine.cached else FAST
        return _published(model, machine, _reason_without_gpu(machine, pocket_knows=not unknown))
    cached = [model for model in fitting if model.path in machine.cached]
    reason = f"it fits the {_gigabytes(machine)} that are free on the GPU"
    if cached:
        return _published(cached[0], machine, f"{reason}, and is in the Hub's cache")
    return _published(fitting[0], machine, reason)


def unknown_to_pocket(class_names: Iterable[str]) -> list[str]:
    """List the classes that no caption of Pocket's training names."""
    words = {name for subject in captions.SUBJECTS for name, _ in subject.names}
    return [name for name in class_names if name.strip().lower() not in words]


def _candidates(machine: Machine) -> list[KnownModel]:
    """List the known models, then others in the Hub's cache that can be loaded."""
    known = {model.path for model in KNOWN}
    others = []
    for path, folder in machine.cached.items():
        pipeline = _pipeline(folder)
        if path not in known and pipeline in BY_PIPELINE:
            others.append(KnownModel(path, _family(path, pipeline), _variant(folder)))
    return [*KNOWN, *others]


def _requested(path: str, machine: Machine, unknown: Sequence[str]) -> ModelChoice:
    if path == POCKET:
        has_not = f"it has never seen {listed([repr(name) for name in unknown], 3)}: it shows the way, not the quality"
        return _pocket(has_not if unknown else "you chose it")
    if known := next((model for model in KNOWN if model.path == path), None):
        return _published(known, machine, "you chose it")
    from dct_augment.diffusion.names import local_folder  # loads torch

    folder = local_folder(path)
    if folder is not None and not (folder / "model_index.json").is_file():
        raise ModelError(
            f"--model {path!r} is no folder that diffusers saved (with a model_index.json). Give one, `pocket`, or an "
            f"id on the Hub such as {_DEFAULT.path}"
        )
    there = folder or machine.cached.get(path)
    pipeline = _pipeline(there) if there is not None else ""
    if pipeline and pipeline not in BY_PIPELINE:
        raise ModelError(f"--model {path!r} is a {pipeline}; choose one of these: {', '.join(BY_PIPELINE)}")
    variant = _variant(there) if there is not None else None
    reason = "you chose it" if there is not None else _asked_of_the_hub(path, machine)
    return _published(KnownModel(path, _family(path, pipeline), variant), machine, reason)


def _asked_of_the_hub(path: str, machine: Machine) -> str:
    """Say why a model is taken that is not here, after asking the Hub for it.

    Raises:
        ModelError: the Hub has none of this name, or does not show it.
    """
    from huggingface_hub import model_info
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    why = "the Hub does not answer"
    try:
        if machine.offline:
            raise ConnectionError
        model_info(path, timeout=10)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"--model {path!r} is unknown: it is no folder here, and the Hub has no model of this name that you may "
            f"see. Give `pocket`, a folder that diffusers saved, or an id on the Hub such as {_DEFAULT.path}"
        ) from error
    except Exception:  # whatever the network, or the library that asks for it, raises
        why = "HF_HUB_OFFLINE is set" if machine.offline else why
        return (
            f"you chose it; it is unknown here: not in the Hub's cache, and {why}. Settings and times are a guess "
            "by its name"
        )
    return "you chose it"


def _pocket(reason: str) -> ModelChoice:
    return ModelChoice(POCKET, POCKET_FAMILY, None, "float32", reason)


def _published(model: KnownModel, machine: Machine, reason: str) -> ModelChoice:
    """Take a model as this machine can: half precision is for GPUs."""
    folder = machine.cached.get(model.path)
    variant = model.variant if folder is None else _variant(folder)
    dtype = "float32" if machine.gpu_bytes is None else model.family.gpu_dtype
    return ModelChoice(model.path, model.family, variant, dtype, reason, model.restriction)


def _reason_without_gpu(machine: Machine, *, pocket_knows: bool) -> str:
    if machine.gpu_bytes is None and pocket_knows:
        side = POCKET_FAMILY.size.side
        return f"no GPU here; Pocket knows these classes, but draws {side} x {side} pixels, and your photos are larger"
    if machine.gpu_bytes is None:
        return "no GPU here, and Pocket cannot draw your classes"
    return f"only {_gigabytes(machine)} are free on the GPU; if memory runs out, batches get smaller"


def _gigabytes(machine: Machine) -> str:
    return f"{(machine.gpu_bytes or 0) / _GB:.0f} GB"


def _pipeline(folder: Path) -> str:
    """Read which pipeline of diffusers a folder holds; empty if it holds none."""
    return str(files.read_json(folder / "model_index.json").get("_class_name", ""))


def _family(path: str, pipeline: str) -> ModelFamily:
    """Tell the family by the pipeline, or else by the name; whether it is distilled to few steps, by the name."""
    name = path.lower()
    if not pipeline:
        by_word = {
            "pixart": "PixArtSigmaPipeline",
            "lcm": "LatentConsistencyModelPipeline",
            "xl": "StableDiffusionXLPipeline",
            "diffusion-3": "StableDiffusion3Pipeline",
            "flux": "FluxPipeline",
            "z-image": "ZImagePipeline",
            "/sana": "SanaPipeline",
        }
        pipeline = next((by_word[word] for word in by_word if word in name), "StableDiffusionPipeline")
    many_steps, few_steps = BY_PIPELINE[pipeline]
    return few_steps if any(word in name for word in ("turbo", "lightning", "hyper", "schnell")) else many_steps


def family_of(path: str, revision: str | None = None) -> ModelFamily:
    """Tell the family of a text-to-image model: by its files if it is here, else by its name. Loads torch."""
    from dct_augment.diffusion.names import folder_here

    if path == POCKET:
        return POCKET_FAMILY
    if known := next((model for model in KNOWN if model.path == path), None):
        return known.family
    folder = folder_here(path, revision)
    pipeline = _pipeline(folder) if folder is not None else ""
    return _family(path, pipeline if pipeline in BY_PIPELINE else "")


def size_of(path: str, revision: str | None = None, image_size: int | None = None) -> ModelSize:
    """Read the size of a text-to-image model from its files; that of its family, where they are not here. Loads torch.

    No weights are loaded: the headers of their files tell how many there are. With `image_size`, images have that side
    in pixels, not the model's own.
    """
    size = _own_size(path, revision)
    if image_size is None:
        return size
    return ModelSize(image_size, max(round(size.latent_side * image_size / size.side), 1), size.weights)


def _own_size(path: str, revision: str | None) -> ModelSize:
    from dct_augment.diffusion.names import folder_here

    usual, folder = family_of(path, revision).size, folder_here(path, revision)
    if folder is None:
        return usual
    part = "transformer" if (folder / "transformer").is_dir() else "unet"
    latent_side = files.read_json(folder / part / "config.json").get("sample_size", usual.latent_side)
    autoencoder = files.read_json(folder / "vae" / "config.json")
    levels = autoencoder.get("block_out_channels") or autoencoder.get("encoder_block_out_channels")
    if isinstance(latent_side, list):
        latent_side = max(latent_side)
    if not isinstance(latent_side, int) or not isinstance(levels, list):
        return usual
    return ModelSize(latent_side * 2 ** (len(levels) - 1), latent_side, _weights(folder / part) or usual.weights)


def takes_guidance(path: str, revision: str | None = None) -> bool:
    """Tell whether a model takes guidance as an input (LCM, FLUX): a step is one evaluation. Loads torch."""
    from dct_augment.diffusion import guidance

    denoiser = guidance.denoiser_here(path, revision)
    return guidance.is_embedded(denoiser) if denoiser else family_of(path, revision).takes_guidance


def _weights(folder: Path) -> int:
    """Count the weights of one variant of a component, by the headers of its safetensors files; 0 if there are none."""
    from safetensors import SafetensorError, safe_open

    counts: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        variant = next((kind for kind in _VARIANTS if f".{kind}." in file.name), "")
        try:
            with safe_open(file, "np") as tensors:
                shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        except (SafetensorError, OSError):
            return 0
        counts[variant] = counts.get(variant, 0) + sum(map(math.prod, shapes))
    return max(counts.values(), default=0)


def _variant(folder: Path) -> str | None:
    """Tell whether a folder holds the weights in half precision, in files of their own."""
    return next((kind for kind in _VARIANTS if any(folder.glob(f"*/*.{kind}*.safetensors"))), None)
