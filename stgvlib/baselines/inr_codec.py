"""Implicit networks as files: each tensor rounded to a number of bits, entropy-coded as .stgv files are.

What NeRV's authors do (8 bits, then a Huffman code) without their pruning and fine-tuning. HNeRV's file holds decoder
and embeddings; the encoder stays behind.
"""

import json
import struct

import numpy as np
import torch

from stgvlib.baselines.inr import InrConfig, InrModel
from stgvlib.codec.entropy import decode_integers, encode_integers
from stgvlib.errors import StgvError

HEAD = struct.Struct("<I")
STEP = struct.Struct("<f")


def _tensors(model: InrModel) -> list[torch.Tensor]:
    """What is sent, in a fixed order."""
    return [t for name, t in model.network.state_dict().items() if not name.startswith("encoder.")]


def encode_inr(model: InrModel, bits: int) -> bytes:
    """`bits` for the largest value of each tensor. Raises StgvError for bits out of 2 to 16."""
    if not 2 <= bits <= 16:
        raise StgvError(f"bits must be from 2 to 16, got {bits}")
    about = {"preset": model.config.preset, "width": model.width, "size": model.size, "frames": model.num_frames[0]}
    text = json.dumps(about).encode()
    parts = [HEAD.pack(len(text)), text]
    for tensor in _tensors(model):
        values = tensor.detach().double().cpu().numpy()
        step = float(np.float32(max(np.abs(values).max(), 1e-12) / (2 ** (bits - 1) - 1)))
        parts += [STEP.pack(step), encode_integers(np.round(values / step).astype(np.int64))]
    return b"".join(parts)


@torch.no_grad()
def decode_inr(data: bytes) -> InrModel:
    """The model that `encode_inr` wrote, on the CPU. Raises StgvError for other bytes."""
    try:
        (length,) = HEAD.unpack_from(data)
        about = json.loads(data[HEAD.size : HEAD.size + length])
        model = InrModel(InrConfig(about["preset"]), about["width"], tuple(about["size"]), about["frames"])
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise StgvError("these bytes hold no network that encode_inr wrote") from error
    view, at = memoryview(data), HEAD.size + length
    for tensor in _tensors(model):
        (step,) = STEP.unpack_from(view, at)
        values, at = decode_integers(view, at + STEP.size, tensor.numel())
        tensor.copy_(torch.from_numpy((values * step).astype(np.float32)).view(tensor.shape))
    return model.eval()
