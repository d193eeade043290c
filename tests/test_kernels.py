"""What the check of a launch refuses beyond dtypes, and which kernels it finds."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install '.[cuda]'")

from stgvlib.config import STGV, FieldConfig  # noqa: E402
from stgvlib.fitting.optimizer import FlatOptimizer  # noqa: E402
from stgvlib.fitting.stage import segments  # noqa: E402
from stgvlib.model.video_model import VideoModel  # noqa: E402
from stgvlib.ops.cuda import compiler  # noqa: E402
from stgvlib.ops.cuda.signatures import check_arguments, kernels  # noqa: E402


def positional_forward(**changes):
    """Arguments of a launch that fits, with some replaced, in the kernel's order."""
    given = {"mu": torch.zeros(1, 4, 2), "gops": None, "x": torch.zeros(1, 8, 4, 8, dtype=torch.float16)}
    given |= {"n": 4, "rows": 4, "frequencies": 10, "width": 32.0, "height": 32.0} | changes
    parameters = kernels(compiler.source("positional"))["positional_forward"]
    assert list(given) == [parameter.name for parameter in parameters]
    return list(given.values())


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"mu": None}, "mu must be a tensor, got NoneType"),
        ({"mu": torch.zeros(3)}, r"mu must be a multiple of 2 numbers for float2\*, got \(3,\)"),
        ({"x": torch.zeros(12, dtype=torch.float16)}, r"x must be a multiple of 8 numbers for uint4\*"),
        ({"mu": torch.zeros(9)[1:]}, r"mu must be at a multiple of 8 bytes for float2\*, got 4 too many"),
        ({"n": 2**31}, "n must be int of 32 bits, got 2147483648"),
        ({"n": True}, "n must be int, got bool"),
        ({"gops": torch.zeros(1, dtype=torch.int64)}, r"gops must be torch.int32 for int\*, got torch.int64"),
    ],
)
def test_what_a_kernel_cannot_read_is_refused(changes, reason):
    check_arguments(compiler.source("positional"), "positional_forward", positional_forward())
    with pytest.raises(TypeError, match=reason):
        check_arguments(compiler.source("positional"), "positional_forward", positional_forward(**changes))


def test_tables_begin_where_kernels_can_read_them():
    """hash_blend reads entries of 16 bytes, also beside an odd number of Gaussians with motion of their own."""
    field = FieldConfig(polynomial=1)
    model = VideoModel(replace(STGV, motion_steps=0, field=field), [2, 2, 2], (24, 40), 7)
    FlatOptimizer(segments(model, "deformation"))
    assert model.gaussians.motion.numel() % 4 == 2
    for table, size in ((model.field.spatial.table, 8), (model.field.temporal.table, 16)):
        assert table.data_ptr() % size == 0


def test_kernels_that_a_macro_declares_are_found():
    found = kernels(compiler.source("splat"))
    names = [parameter.name for parameter in found["splat_backward"]]
    assert [parameter.name for parameter in found["splat_backward_wide"]] == names
    assert names[:5] == ["shape", "paint", "boxes", "cholesky", "image_grad"]
    nullable = [p.name for p in kernels(compiler.source("splat_mse"))["splat_mse_gradients"] if p.nullable]
    assert nullable == ["scale"]
