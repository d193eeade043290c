"""Numbers that Python, numba and CUDA kernels share; `cuda/compiler.py` puts `definitions` before a kernel's source."""

import math

MIN_SCALE = 0.3  # px: thinner Gaussians fall between the pixels
CUT = math.log(255.0)  # sigma at which the weight is 1/255
FADE_SCALE = 8.0  # of a Gaussian's own brightening: its number is rounded like the coefficients of a motion
PRIMES = (1, 2654435761, 805459861)  # of the spatial hash, for x, y, t

BLOCK = 256  # threads of a block, where nothing else stands here
TILE = 16  # px, side of a splat tile
SPLAT_THREADS, STEP_THREADS = 128, 64  # of a block: forward kernels of the splat; rate_steps, one for each step
GATHER_WARPS = 8  # of a block of the splat's gradients: each takes a small Gaussian, or all together a wide one
RATE_SUMS = 19  # numbers that rate.cu keeps for a GoP, beside two for each tensor of its field
CHUNKS, CHUNK_FEATURES = 8, 6  # of a fused field's encoding
MLP_INPUTS, MLP_OUTPUTS = CHUNKS * CHUNK_FEATURES, 8  # outputs: 2 position, 3 colour, 3 shape
MLP_BACKWARD_THREADS, MLP_BACKWARD_ROWS = 256, 128  # of a block: threads, and rows that it takes at a time
MLP_BACKWARD_BLOCKS = {64: 2, 128: 1}  # width of the MLP -> blocks for which a multiprocessor has registers
MLP_FORWARD_ROWS = {64: 512, 128: 384}  # width -> threads and rows; multiples of the backward pass's rows

_SPLAT = {"TILE": TILE, "THREADS": SPLAT_THREADS, "MIN_SCALE": f"{MIN_SCALE}f"}
_SPLAT |= {"CUT": f"{CUT / math.log(2)}f"}  # of |z|^2 in powers of two
_SPLAT |= {"RADIUS": f"{math.sqrt(2 * CUT)}f"}  # the cut in standard deviations

DEFINITIONS: dict[str, dict[str, int | str]] = {  # kernel file -> what is defined for it
    "splat": _SPLAT | {"GATHER_WARPS": GATHER_WARPS},
    "splat_mse": _SPLAT,
    "positional": {"CHUNKS": CHUNKS, "PER_CHUNK": CHUNK_FEATURES},
    "planes": {"FEATURES": CHUNKS * CHUNK_FEATURES // 3},  # of each of the three planes
    "lattice": {"FADE_SCALE": f"{FADE_SCALE}f"},
    "hash_encoding": {"Y_PRIME": f"{PRIMES[1]}u", "Z_PRIME": f"{PRIMES[2]}u"},
    "rate": {"STEP_THREADS": STEP_THREADS, "OF_GOP": RATE_SUMS, "MIN_SCALE": f"{MIN_SCALE}f"},
    "changes": {"MIN_SCALE": f"{MIN_SCALE}f"},
}


def mlp_pitch(width: int) -> int:
    """Halves between two rows in shared memory: an odd number of 16 bytes, so eight rows never share a bank."""
    return width + 8


def mlp_sums(width: int) -> int:
    """Weights and biases of an MLP but for gamma(t)'s."""
    return (MLP_INPUTS + width + MLP_OUTPUTS) * width + 2 * width + MLP_OUTPUTS


def stage_rows(arch: str) -> int:
    """Rows that mlp_backward stages at a time on sm_90 ...: half of them where a block has 99 KB of shared memory."""
    return 64 if arch in ("sm_75", "sm_86", "sm_89") or int(arch.removeprefix("sm_")) >= 120 else 128


def definitions(name: str, arch: str, variant: tuple = ()) -> dict[str, int | str]:
    """What is defined for a kernel file and an architecture. `variant` of the MLP's: (width, slope)."""
    more = _mlp(name, arch, *variant) if name.startswith("mlp_") else {}
    if name == "splat_mse":  # groups of a quadrant whose weights stay in shared memory
        more = {"KEPT": 1 if stage_rows(arch) == 64 else 4}
    return {"BLOCK": BLOCK} | DEFINITIONS.get(name, {}) | more


def _mlp(name: str, arch: str, width: int = 128, slope: float = 0.0) -> dict[str, int | str]:
    both = {"K1": MLP_INPUTS, "HIDDEN": width, "OUT": MLP_OUTPUTS, "PITCH": mlp_pitch(width)}
    both |= {"SLOPE": f"{float(slope)}f"}
    if name == "mlp_forward":
        return both | {"THREADS": MLP_FORWARD_ROWS[width]}
    sizes = {"THREADS": MLP_BACKWARD_THREADS, "ROWS": MLP_BACKWARD_ROWS, "BLOCKS": MLP_BACKWARD_BLOCKS[width]}
    return both | sizes | {"SUMS": mlp_sums(width), "STAGE": stage_rows(arch)}
