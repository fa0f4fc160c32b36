"""Lists the parts of the benchmark, and the pieces that are measured one after the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu import parts
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import Row

MODELS = ("sd15", "sdxl")


@dataclass(frozen=True)
class Part:
    """Something that is measured: what it is, in a line, how it is measured, and the units of its columns."""

    what: str
    measure: Callable[..., list[Row]]


PARTS: Mapping[str, Part] = {
    "memory_8gb": Part(
        "tokens of 8 classes and images with them, with the settings of configs/cub.yaml but for 2 steps and 2 "
        "updates, in the memory of a card of 8 GB",
        parts.memory_8gb,
    ),
    "updates": Part("an update of class tokens by each gradient method, for one image of it", parts.updates),
    "generation": Part("a generated image, against the pipeline of diffusers", parts.generation),
    "classifier": Part("a training image of the low-resource classifier, against a bare loop", parts.classifier),
    "precision": Part("the gradient of a token in half precision, against float32", parts.precision),
    "compile": Part("an update with torch.compile of the denoiser, against one without, for one image", parts.compiled),
}


@dataclass(frozen=True)
class Piece:
    """One call of a part: for a model, with options, in about so many seconds on an H100 (estimated)."""

    part: str
    model: str
    seconds: float
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name in the JSON: `updates/sd15/balanced/1x1`."""
        options = dict(self.options)
        if "classes" in options:
            options["batch"] = f"{options.pop('classes')}x{options.pop('images')}"
        return "/".join(filter(None, (self.part, self.model, *options.values())))

    def measure(self, bench: Bench) -> list[Row]:
        """Measure it."""
        return PARTS[self.part].measure(bench, self.seconds, self.model, **self.options)


def _updates(model: str, seconds: float, memory: str, batch: tuple[int, int]) -> Piece:
    return Piece("updates", model, seconds, {"memory": memory, "classes": batch[0], "images": batch[1]})


_ONE, _SHIPPED = (1, 1), (4, 2)
"""Classes x images of an update: one image, as the paper's loop has it, and as configs/cub.yaml ships it."""

PIECES: tuple[Piece, ...] = (
    Piece("memory_8gb", "sd15", 40),
    _updates("sd15", 25, "balanced", _ONE),
    _updates("sd15", 60, "balanced", _SHIPPED),
    Piece("generation", "sd15", 30),
    _updates("sd15", 25, "fast", _ONE),
    _updates("sd15", 35, "low", _ONE),
    Piece("compile", "sd15", 60, {"memory": "fast"}),
    Piece("classifier", "", 25),
    Piece("precision", "sd15", 35),
    Piece("generation", "sdxl", 45),
    _updates("sdxl", 60, "balanced", _ONE),
    _updates("sd15", 45, "fast", _SHIPPED),
    _updates("sd15", 60, "low", _SHIPPED),
    _updates("sdxl", 60, "fast", _ONE),
    _updates("sdxl", 75, "low", _ONE),
    Piece("compile", "sd15", 60, {"memory": "balanced"}),
    Piece("precision", "sdxl", 120),
    Piece("compile", "sdxl", 120, {"memory": "balanced"}),
    _updates("sdxl", 250, "balanced", _SHIPPED),
)
"""In the order of what is most worth knowing, as minutes may be few."""

TINY_PIECES: tuple[Piece, ...] = tuple(
    piece
    for piece in PIECES
    if piece.name
    in (
        "memory_8gb/sd15",
        "updates/sdxl/low/1x1",
        "generation/sdxl",
        "compile/sd15/fast",
        "classifier",
        "precision/sd15",
    )
)
"""Some of each part, which is enough for a test."""
