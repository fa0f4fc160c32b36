"""From a clean drawing to a photograph: pose, twigs and leaves in the way, light, focus, grain.

The benchmark's real pictures are photographs, as real ones are: the classes differ in small marks,
and the pictures of one class differ in everything else. What the models of Pocket learned from is clean.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_COLD = (0.88, 0.96, 1.06)
"""Red, green and blue of the light in winter."""

GREENERY = ((58, 74, 38), (96, 116, 52), (128, 104, 62), (74, 52, 40), (150, 142, 84))


def photograph(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Photograph a drawing (RGB); same size, everything random comes from `rng`."""
    posed = _pose(picture, rng)
    _overgrow(posed, rng)
    focused = posed.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.0, 0.9))))
    light = np.asarray(focused, dtype=np.float32) / 255.0
    light = light ** float(rng.uniform(0.8, 1.3)) * rng.uniform(0.82, 1.12, 3).astype(np.float32)
    light *= _shadow(picture.size, rng)
    light += rng.normal(0, float(rng.uniform(0.0, 0.03)), light.shape)
    return Image.fromarray(np.clip(light * 255 + 0.5, 0, 255).astype(np.uint8))


def photograph_in_snow(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Photograph a drawing (RGB) in snow, with another camera: cold light, coarser pixels, dark corners."""
    posed = _pose(picture, rng)
    _snow(posed, rng)
    side = posed.width
    coarse = posed.resize((side * 5 // 8,) * 2, Image.Resampling.BOX).resize(posed.size, Image.Resampling.BICUBIC)
    light = np.asarray(Image.blend(posed, coarse, float(rng.uniform(0.3, 0.9))), dtype=np.float32) / 255.0
    light = light ** float(rng.uniform(0.7, 1.1)) * np.array(_COLD, dtype=np.float32) * float(rng.uniform(0.85, 1.1))
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    light *= (1 - float(rng.uniform(0.1, 0.35)) * (x * x + y * y) / 2)[..., None].astype(np.float32)
    light += rng.normal(0, float(rng.uniform(0.01, 0.05)), light.shape[:2])[..., None]
    return Image.fromarray(np.clip(light * 255 + 0.5, 0, 255).astype(np.uint8))


def _pose(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn, zoom and shift; what comes into view repeats the edge."""
    width, height = picture.size
    margin = width // 2
    wide = Image.fromarray(np.pad(np.asarray(picture), ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    angle, zoom = float(rng.normal(0, 0.14)), float(rng.uniform(0.9, 1.3))
    across, down = rng.normal(0, 0.05, 2) * width
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    center = (width / 2 + margin + across, height / 2 + margin + down)
    matrix = (cos, -sin, center[0] - cos * width / 2 + sin * height / 2,
              sin, cos, center[1] - sin * width / 2 - cos * height / 2)  # fmt: skip
    return wide.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _overgrow(picture: Image.Image, rng: np.random.Generator) -> None:
    """Draw twigs and leaves over the picture."""
    draw, side = ImageDraw.Draw(picture), picture.width
    for _ in range(int(rng.integers(0, 3))):
        color = GREENERY[int(rng.integers(len(GREENERY)))]
        start, angle = rng.uniform(0, side, 2), float(rng.uniform(0, math.pi))
        reach = np.array([math.cos(angle), math.sin(angle)]) * side * 1.5
        draw.line([tuple(start - reach), tuple(start + reach)], fill=color, width=int(rng.integers(1, 4)))
        for _ in range(int(rng.integers(0, 4))):
            x, y = start + reach * rng.uniform(-0.5, 0.5)
            radius = rng.uniform(0.03, 0.08, 2) * side
            draw.ellipse((x - radius[0], y - radius[1], x + radius[0], y + radius[1]), fill=color)


def _snow(picture: Image.Image, rng: np.random.Generator) -> None:
    """Draw a drift of snow, and flakes."""
    draw, side = ImageDraw.Draw(picture), picture.width
    left, right = rng.uniform(0.75, 1.0, 2) * side
    draw.polygon([(0, left), (side, right), (side, side), (0, side)], fill=(238, 242, 250))
    for _ in range(int(rng.integers(4, 16))):
        x, y = rng.uniform(0, side, 2)
        radius = float(rng.uniform(0.006, 0.028)) * side
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(246, 248, 254))


def _shadow(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A brightness ramp across the picture, (H, W, 1)."""
    angle, depth = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.0, 0.3))
    y, x = np.mgrid[-0.5 : 0.5 : size[1] * 1j, -0.5 : 0.5 : size[0] * 1j]
    return (1 - depth * (0.5 + x * math.cos(angle) + y * math.sin(angle)))[..., None].astype(np.float32)
