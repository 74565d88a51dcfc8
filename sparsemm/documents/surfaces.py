"""Paper that text is printed on, and the desk that it lies on: textures made of smooth noise."""

from __future__ import annotations

import numpy as np
from PIL import Image

Pixels = np.ndarray
"""float32 [height, width] or [height, width, 3], grey levels 0 to 255."""


def smooth_noise(generator: np.random.Generator, width: int, height: int, cell: float) -> Pixels:
    """Noise that varies over `cell` pixels, mean 0 and deviation about 1, [height, width]."""
    rows, columns = (max(2, round(side / cell) + 1) for side in (height, width))
    coarse = Image.fromarray(generator.standard_normal((rows, columns), dtype=np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _axes(width: int, height: int) -> tuple[Pixels, Pixels]:
    """Position across and down, each from -0.5 to 0.5."""
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    return x, y


def _along(generator: np.random.Generator, width: int, height: int) -> Pixels:
    """Position along a drawn direction, about -0.5 to 0.5, [height, width]."""
    angle = generator.uniform(0, 2 * np.pi)
    x, y = _axes(width, height)
    return (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32)


def make_paper(generator: np.random.Generator, width: int, height: int) -> Pixels:
    """A sheet with a tint, a gradient of light, grain, up to two creases and perhaps a shadow."""
    grey = generator.uniform(222, 250)
    tint = np.array([0, -generator.uniform(0, 6), -generator.uniform(0, 22)], dtype=np.float32)
    light = generator.uniform(0, 22) * _along(generator, width, height)
    light = light + generator.uniform(1, 4) * smooth_noise(generator, width, height, width / 4)
    light += generator.uniform(0.5, 3) * smooth_noise(generator, width, height, 2)
    for _ in range(generator.integers(0, 3)):
        light += _crease(generator, width, height)
    if generator.random() < 0.5:
        edge = _along(generator, width, height) - generator.uniform(0.0, 0.3)
        light -= generator.uniform(8, 35) / (1 + np.exp(-edge * generator.uniform(15, 60)))
    return np.clip(grey + tint + light[..., None], 0, 255).astype(np.float32)


def _crease(generator: np.random.Generator, width: int, height: int) -> Pixels:
    """A fold, nearly upright or level: one side of it lies in the light, the other in the dark."""
    x, y = _axes(width, height)
    across, along, side = (x, y, width) if generator.random() < 0.5 else (y, x, height)
    distance = across - generator.uniform(-0.3, 0.3) - generator.uniform(-0.05, 0.05) * along
    narrow, wide = distance * side / 2, distance * generator.uniform(4, 12)
    fold = -generator.uniform(8, 22) * np.exp(-(narrow**2))
    slope = generator.uniform(-10, 10) * np.tanh(narrow) * np.exp(-np.abs(wide))
    return (fold + slope).astype(np.float32)


def make_desk(generator: np.random.Generator, width: int, height: int) -> Pixels:
    """What lies around the paper: wood, cloth, or a blurred scene of coloured patches."""
    kind = generator.choice(("wood", "cloth", "scene"))
    base = generator.uniform(40, 190, 3).astype(np.float32)
    if kind == "wood":
        base = np.array([1.0, 0.72, 0.48], dtype=np.float32) * generator.uniform(70, 200)
        rings = smooth_noise(generator, width, height, width / 2) + 9 * _along(generator, width, height)
        grain = np.sin(rings * generator.uniform(8, 20)) * generator.uniform(5, 14)
        pixels = base + (grain + 3 * smooth_noise(generator, width, height, 3))[..., None]
    elif kind == "cloth":
        x, y = np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]
        weave = (np.sin(x * 1.6) + np.sin(y * 1.6)) * generator.uniform(3, 10)
        pixels = base + (weave + 10 * smooth_noise(generator, width, height, width / 3))[..., None]
    else:
        layers = [smooth_noise(generator, width, height, width / 3) for _ in range(3)]
        patches = np.stack(layers, axis=-1) * generator.uniform(20, 45)
        pixels = base + patches + 6 * smooth_noise(generator, width, height, width / 20)[..., None]
    light = generator.uniform(10, 60) * _along(generator, width, height)
    return np.clip(pixels + light[..., None], 0, 255).astype(np.float32)
