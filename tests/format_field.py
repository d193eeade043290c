"""The deformation field of a .stgv file at a time t, with NumPy, written from docs/FORMAT.md and docs/CONVENTIONS.md.

`format_decoder.py` needs it for predicted GoPs, which begin where the field leaves the GoP before. It computes in
double precision, from which the library's single precision differs by rounding.
"""

import math

import numpy as np


def deformed(field: dict, size: tuple[int, int], mu, cholesky, rgb, tensors: list[np.ndarray], t: float) -> tuple:
    """Gaussians mu [N, 2] px, (l1, l2, l3) [N, 3] px and colours [N, 3] at time t, in double precision.

    `field`: all settings, without `polynomial` and `fade`; `size`: height, width; `tensors`: in the order of the file.
    """
    mu, cholesky, rgb = (np.asarray(v, np.float64) for v in (mu, cholesky, rgb))
    tensors = iter([np.asarray(v, np.float64) for v in tensors])
    extent = np.array([size[1], size[0]], np.float64)
    inside_tanh = field["position_space"] == "tanh"
    unit = extent / 2 if field["position_scale"] is None else np.full(2, float(field["position_scale"]))
    unit = np.ones(2) if inside_tanh else unit
    moved = np.zeros_like(mu)
    if field["lattice"]:
        moved += displacement(next(tensors), mu / extent, t)
    if field["encoding"] != "none":
        hidden = encoded(field, mu / extent, t, tensors)
        for _ in range(2):
            hidden = active(layer(hidden, tensors), field)
        moved += head(hidden, tensors, field) * unit
        rgb = rgb + head(hidden, tensors, field)
        if field["deform_shape"]:
            cholesky = cholesky + head(hidden, tensors, field) * unit.min() / 10
    if not inside_tanh:
        return mu + moved, cholesky, rgb
    where = 2 * mu / extent - 1
    inside = extent / 2 * (1 + np.tanh(np.arctanh(np.clip(where, -0.999999, 0.999999)) + moved))
    return np.where(np.abs(where) < 1, inside, mu), cholesky, rgb


def encoded(field: dict, place: np.ndarray, t: float, tensors) -> np.ndarray:
    """Inputs of the first layer: [N, inputs], for places [N, 2] as parts of the frame's width and height."""
    parts, time = [], np.full((len(place), 1), t)
    if field["encoding"] == "positional":
        plain = field["position_code"] == "plain"
        parts.append(gamma(2 * place - 1 if plain else place, field["position_frequencies"], plain))
    elif field["encoding"] == "planes":
        x, y, when = *place.T, time[:, 0]
        for axes, plane in zip(((y, x), (when, x), (when, y)), tensors):
            parts.append(interpolated(np.moveaxis(plane, 0, 2), np.stack(axes, 1)))
    else:
        for dims, name in ((2, "spatial"), (3, "temporal")):
            if field[name]:
                points = np.concatenate([place, time], 1)[:, :dims]
                parts.append(hash_features(next(tensors), points, *grids(field, dims)))
    parts.append(gamma(time, field["time_frequencies"], field["time_code"] == "plain"))
    return np.concatenate(parts, 1)


def gamma(v: np.ndarray, frequencies: int, plain: bool) -> np.ndarray:
    """[N, D] -> v, then of each axis the sines, the cosines: [N, D (1 + 2 frequencies)]."""
    angles = v[:, :, None] * 2.0 ** np.arange(frequencies) * (1 if plain else math.pi)
    return np.concatenate([v, np.concatenate([np.sin(angles), np.cos(angles)], 2).reshape(len(v), -1)], 1)


def grids(field: dict, dims: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each level of a hash table: scales [L, D], points of each axis [L, D], entries [L]."""
    level = np.arange(field["levels"], dtype=np.float32)
    growth = np.log2(np.float32(field["growth"]))
    scale = np.exp2(level * growth) * np.float32(field["base_resolution"]) - np.float32(1)
    scales = np.repeat(scale[:, None], dims, 1)
    if dims == 3 and field["time_cells"] is not None:
        scales[:, 2] = field["time_cells"]
    points = np.ceil(scales).astype(np.int64) + 1
    return scales, points, np.minimum(-(-points.prod(1) // 8) * 8, 2 ** field["log2_table_size"])


def hash_features(table: np.ndarray, v: np.ndarray, scales, points, entries) -> np.ndarray:
    """[N, levels * features] at v [N, D]: one level after the other."""
    dims, out, first = v.shape[1], [], 0
    for scale, axes, size in zip(scales, points, entries):
        place = np.clip(v, 0, 1) * scale + 0.5
        cell = np.floor(place).astype(np.int64)
        part, total = place - cell, 0
        for corner in np.ndindex(*[2] * dims):
            weight = np.where(corner, part, 1 - part).prod(1)
            at = cell + corner
            if axes.prod() <= size:
                row = (at * [1, *np.cumprod(axes)[:-1]]).sum(1)
            else:
                row = np.bitwise_xor.reduce(at * np.array([1, 2654435761, 805459861])[:dims], 1)
            total = total + weight[:, None] * table[first + row % size]
        out.append(total)
        first += size
    return np.concatenate(out, 1)


def interpolated(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Linear in each axis between values [n1, ..., nD, F], the outer ones at 0 and 1, for at [N, D]: [N, F]."""
    places = np.clip(at, 0, 1) * (np.array(values.shape[:-1]) - 1)
    cell, total = np.floor(places).astype(np.int64), 0
    for corner in np.ndindex(*[2] * at.shape[1]):
        index = np.minimum(cell + corner, np.array(values.shape[:-1]) - 1)
        weight = np.where(corner, places - cell, 1 - (places - cell)).prod(1)
        total = total + weight[:, None] * values[tuple(index.T)]
    return total


def displacement(lattice: np.ndarray, place: np.ndarray, t: float) -> np.ndarray:
    """Of a lattice [T, Y, X, 2]: [N, 2] px. Its k-th point in time is at t = (k + 1) / T."""
    count = len(lattice)
    when = np.full(len(place), (t * count - 1) / max(count - 1, 1))
    return interpolated(lattice, np.stack([when, place[:, 1], place[:, 0]], 1))


def layer(x: np.ndarray, tensors) -> np.ndarray:
    return x @ next(tensors) + next(tensors)


def active(x: np.ndarray, field: dict) -> np.ndarray:
    return np.where(x > 0, x, field["slope"] * x)


def head(x: np.ndarray, tensors, field: dict) -> np.ndarray:
    for _ in range(field["head_layers"] - 1):
        x = active(layer(x, tensors), field)
    return layer(x, tensors)
