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
MLP_INPUTS, MLP_WIDTH, MLP_OUTPUTS = CHUNKS * CHUNK_FEATURES, 128, 8  # outputs: 2 position, 3 colour, 3 shape
MLP_PITCH = 136  # halves between two rows in shared memory: 17 x 16 bytes, so eight rows never share a bank
MLP_FORWARD_THREADS, MLP_BACKWARD_THREADS = 384, 256  # of a block
MLP_FORWARD_ROWS, MLP_BACKWARD_ROWS = 384, 128  # that a block takes at a time; the first are a multiple of the second
MLP_SUMS = (MLP_INPUTS + MLP_WIDTH + MLP_OUTPUTS) * MLP_WIDTH + 2 * MLP_WIDTH + MLP_OUTPUTS  # weights and biases

_MLP = {"K1": MLP_INPUTS, "HIDDEN": MLP_WIDTH, "OUT": MLP_OUTPUTS, "PITCH": MLP_PITCH}
DEFINITIONS: dict[str, dict[str, int | str]] = {  # kernel file -> what is defined for it
    "splat": {
        "TILE": TILE,
        "THREADS": SPLAT_THREADS,
        "GATHER_WARPS": GATHER_WARPS,
        "MIN_SCALE": f"{MIN_SCALE}f",
        "CUT": f"{CUT / math.log(2)}f",  # of |z|^2 in powers of two
        "RADIUS": f"{math.sqrt(2 * CUT)}f",  # the cut in standard deviations
    },
    "positional": {"CHUNKS": CHUNKS, "PER_CHUNK": CHUNK_FEATURES},
    "planes": {"FEATURES": CHUNKS * CHUNK_FEATURES // 3},  # of each of the three planes
    "lattice": {"FADE_SCALE": f"{FADE_SCALE}f"},
    "hash_encoding": {"Y_PRIME": f"{PRIMES[1]}u", "Z_PRIME": f"{PRIMES[2]}u"},
    "rate": {"STEP_THREADS": STEP_THREADS, "OF_GOP": RATE_SUMS, "MIN_SCALE": f"{MIN_SCALE}f"},
    "mlp_forward": _MLP | {"THREADS": MLP_FORWARD_THREADS, "ROWS": MLP_FORWARD_ROWS},
    "mlp_backward": _MLP | {"THREADS": MLP_BACKWARD_THREADS, "ROWS": MLP_BACKWARD_ROWS, "SUMS": MLP_SUMS},
}


def stage_rows(arch: str) -> int:
    """Rows that mlp_backward stages at a time on sm_90 ...: half of them where a block has 99 KB of shared memory."""
    return 64 if arch in ("sm_75", "sm_86", "sm_89") or int(arch.removeprefix("sm_")) >= 120 else 128


def definitions(name: str, arch: str) -> dict[str, int | str]:
    """What is defined for a kernel file and an architecture."""
    staged = {"STAGE": stage_rows(arch)} if name == "mlp_backward" else {}
    return {"BLOCK": BLOCK} | DEFINITIONS.get(name, {}) | staged
