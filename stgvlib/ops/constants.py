"""Numbers that Python, numba and CUDA kernels share; `cuda/compiler.py` puts DEFINITIONS before a kernel's source."""

import math

MIN_SCALE = 0.3  # px: thinner Gaussians fall between the pixels
CUT = math.log(255.0)  # sigma at which the weight is 1/255
TILE = 16  # px, side of a splat tile
SPLAT_THREADS, RATE_THREADS = 128, 256  # of a block
GATHER_WARPS = 8  # of a block of the splat's gradients: each takes a small Gaussian, or all together a wide one
RATE_SUMS = 19  # numbers that rate.cu keeps for a GoP, beside two for each tensor of its field
CHUNKS, CHUNK_FEATURES = 8, 6  # of a fused field's encoding
MLP_INPUTS, MLP_WIDTH, MLP_OUTPUTS = CHUNKS * CHUNK_FEATURES, 128, 8  # outputs: 2 position, 3 colour, 3 shape
MLP_PITCH = 136  # halves between two rows in shared memory: 17 x 16 bytes, so eight rows never share a bank
MLP_FORWARD_WARPS, MLP_BACKWARD_ROWS = 12, 128

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
    "rate": {"THREADS": RATE_THREADS, "OF_GOP": RATE_SUMS},
    "mlp_forward": _MLP | {"FORWARD_WARPS": MLP_FORWARD_WARPS},
    "mlp_backward": _MLP | {"ROWS": MLP_BACKWARD_ROWS},
}
