"""Every launch in the library goes with its kernel's parameters: checked without a GPU, on tensors of a CPU."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install '.[cuda]'")

from stgvlib.codec import rate_cuda  # noqa: E402
from stgvlib.codec.change_optimizer import ChangeOptimizer  # noqa: E402
from stgvlib.codec.rate_optimizer import RateOptimizer  # noqa: E402
from stgvlib.config import PAPER, STGV, FieldConfig  # noqa: E402
from stgvlib.fitting import stage_cuda  # noqa: E402
from stgvlib.fitting.optimizer import FlatOptimizer, _keep_grey_cuda  # noqa: E402
from stgvlib.fitting.stage import segments  # noqa: E402
from stgvlib.model import field_cuda  # noqa: E402
from stgvlib.model.video_model import VideoModel  # noqa: E402
from stgvlib.ops.constants import BLOCK, MIN_SCALE, definitions  # noqa: E402
from stgvlib.ops.cuda import compiler, encoding, splat  # noqa: E402
from stgvlib.ops.cuda.signatures import check_arguments, kernels  # noqa: E402

FILES = sorted(path.stem for path in compiler.SOURCES.glob("*.cu"))
SIZE, COUNT, GOPS, FRAMES = (32, 48), 70, 2, 3
H100 = SimpleNamespace(multi_processor_count=132, major=9, minor=0, shared_memory_per_block_optin=227 * 1024)
FIELDS = {
    "paper": (PAPER, PAPER.field),
    "stgv": (STGV, STGV.field),
    "lattice, fade": (STGV, replace(STGV.field, lattice=(3, 2, 5), fade=True)),
    "fade": (STGV, replace(STGV.field, fade=True)),
    "2D alone": (STGV, replace(STGV.field, temporal=False)),
    "no shape head": (STGV, replace(STGV.field, deform_shape=False)),
    "no pi in gamma": (PAPER, replace(PAPER.field, time_code="plain")),
    "clamped, two optimisers": (replace(PAPER, clamp=True, field_optimizer="adam"), PAPER.field),
    "huber": (replace(STGV, huber=0.3), STGV.field),
    "narrow": (STGV, replace(STGV.field, width=64)),
    "leaky": (STGV, replace(STGV.field, slope=0.1)),
    "grey": (replace(STGV, grey=0.5), STGV.field),
} | {
    f"{encoding}, shape {shape}": (PAPER, FieldConfig(encoding=encoding, deform_shape=shape))
    for encoding in ("planes", "positional")
    for shape in (False, True)
}


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that were launched, each with arguments that were checked."""
    names = set()

    def run(name, function, grid, block, *arguments, shared=0, variant=()):
        check_arguments(compiler.source(name, variant=variant), function, arguments)
        assert len(grid) == 3 and min(grid) >= 1 and block % 32 == 0
        assert shared <= H100.shared_memory_per_block_optin
        if name.startswith("mlp_"):
            defined = definitions(name, "sm_90", variant)
            assert block == {"mlp_begin": defined["HIDDEN"], "mlp_reduce": BLOCK}.get(function, defined["THREADS"])
        names.add(function)

    for module in (splat, encoding, field_cuda, rate_cuda, stage_cuda, compiler):
        monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: H100)
    return names


def model_of(config, field):
    config = replace(config, field=field, coarse_steps=4, steps=4)
    model = VideoModel(config, [FRAMES] * GOPS, SIZE, COUNT, torch.Generator().manual_seed(0))
    for parameter in (model.gaussians.cholesky, model.gaussians.rgb):
        torch.nn.init.ones_(parameter)
    return model


def launch_everything():
    frames = torch.zeros(GOPS, FRAMES, *SIZE, 4, dtype=torch.uint8)
    for config, field in FIELDS.values():
        model = model_of(config, field)
        for coarse in (True, False):
            name = "coarse" if coarse else "deformation"
            optimizer = FlatOptimizer(segments(model, name), config.optimizer)
            counts, losses = torch.tensor(model.num_frames), torch.zeros(4, GOPS)
            for keyframe in (None, counts // 2):
                stage_cuda.TrainingStep(
                    model, frames, optimizer, losses, counts, counts * 0 + 1, keyframe, coarse
                ).gradients()
            for group in optimizer.groups:
                optimizer._step_cuda(group, *optimizer._buffers(group))
            for span in optimizer.grey:
                _keep_grey_cuda(optimizer.flat[span], optimizer.grad[span])
        field_cuda.FusedField(model, GOPS, gops=torch.zeros(GOPS, dtype=torch.int32)).forward()
    projection = splat.Projection.empty(GOPS, COUNT, SIZE, torch.device("cpu"))
    mu, cholesky, rgb = (torch.zeros(GOPS, COUNT, n) for n in (2, 3, 3))
    projection.project(mu, cholesky, rgb)
    for dtype in (torch.float32, torch.uint8):
        projection.image(torch.empty(GOPS, *SIZE, 3, dtype=dtype))
    projection.gather(torch.zeros(GOPS, *SIZE, 3), cholesky, [mu, cholesky, rgb])
    leaves = [t.requires_grad_() for t in (mu, cholesky, rgb)]
    splat.Splat.apply(*leaves, SIZE).transpose(1, 2).sum().backward()
    splat.SplatMSE.apply(*leaves, frames, torch.zeros(GOPS, dtype=torch.int64), None, True).sum().backward()
    for adaptive in (True, False):
        model = model_of(STGV, replace(STGV.field, lattice=(3, 2, 5), fade=adaptive))
        optimizer = RateOptimizer(segments(model, "deformation"), "adam", None, model, 1e-3, True, True, adaptive)
        fused = rate_cuda.FusedRate(optimizer)
        fused.round()
        fused.learn(4.0)
    model = model_of(STGV, replace(STGV.field, lattice=(3, 2, 5)))
    field = [p.detach() for p in model.field.parameters()]
    predicted = segments(model, "deformation"), "adam", None, model, torch.ones(3, GOPS, COUNT, 1)
    fused = rate_cuda.FusedChanges(ChangeOptimizer(*predicted, [0.1] * len(field), field, 1e-3, 4.0))
    fused.round()
    fused.learn()


def test_every_kernel_is_launched_with_what_it_takes(launched):
    launch_everything()
    assert launched == {name for file in FILES for name in kernels(compiler.source(file))}


def call(**changes):
    """A launch of `pixels` with some arguments replaced."""
    given = {"p": torch.zeros(4, 2), "out": torch.zeros(4, 2), "count": 4, "width": 32.0, "height": 32.0} | changes
    return [value for value in given.values() if value is not ...]


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (call(height=...), r"pixels takes 5 arguments \(\w+, \w+, count, width, height\), got 4"),
        (call(out=torch.zeros(4, 2, dtype=torch.float64)), r"must be torch.float32 for float2\*, got torch.float64"),
        (call(out=torch.zeros(2, 4).T), r"must be contiguous, got strides \(1, 4\) of \(4, 2\)"),
        (call(count=4.0), "count must be int, got float"),
        (call(width=32), "width must be float, got int"),
        (call(p=4), "raw must be a tensor, got int"),
        (call(out=4, count=torch.zeros(4, 2)), "mu must be a tensor, got int"),
        (call(count=32.0, width=4), "count must be int, got float"),
        (call(out=torch.zeros(4, 2, device="meta")), "mu must be on cpu as the others, got meta"),
    ],
)
def test_a_launch_that_does_not_fit_is_named(arguments, reason):
    with pytest.raises((TypeError, ValueError), match=reason) as raised:
        check_arguments(compiler.source("parametrization"), "pixels", arguments)
    assert "\n" not in str(raised.value)
    check_arguments(compiler.source("parametrization"), "pixels", call())


def test_a_launch_needs_tensors_of_one_gpu():
    with pytest.raises(ValueError, match="pixels takes tensors of one GPU, got cpu, meta"):
        compiler.run("parametrization", "pixels", (1, 1, 1), 256, *call(out=torch.zeros(4, 2, device="meta")))
    with pytest.raises(ValueError, match="pixels takes tensors of one GPU, got cpu"):
        compiler.run("parametrization", "pixels", (1, 1, 1), 256, *call())


@pytest.mark.gpu
def test_a_launch_goes_to_its_tensors_device_and_stream():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    torch.cuda.set_device(0)
    for device in ("cuda:0", "cuda:1"):
        out = torch.zeros(4, 2, device=device)
        given = call(p=torch.zeros(4, 2, device=device), out=out)
        torch.cuda.synchronize(device)
        with torch.cuda.stream(torch.cuda.Stream(device)):
            torch.cuda.set_device(0)
            compiler.run("parametrization", "pixels", (1, 1, 1), 256, *given)
        torch.cuda.synchronize(device)
        assert torch.cuda.current_device() == 0 and (out == 16).all()


def test_levels_have_the_layout_of_the_struct():
    body = re.sub(r"//[^\n]*", "", re.search(r"struct Level \{(.*?)\};", compiler.source("hash_encoding"), re.S)[1])
    fields = [(name.strip(), kind) for kind, names in re.findall(r"(\w+) ([^;]+);", body) for name in names.split(",")]
    assert fields == [(name, {"f": "float", "i": "int"}[encoding.LEVEL[name].kind]) for name in encoding.LEVEL.names]
    assert encoding.LEVEL.itemsize == 4 * len(fields)


def test_the_fused_mlp_has_the_widths_that_are_compiled(monkeypatch):
    """64 and 128; 64 fits the 64 KB of shared memory of sm_75, 128 needs 99 KB."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: H100)
    fields = {width: model_of(STGV, replace(STGV.field, width=width)).field for width in (32, 64, 128)}
    assert [field_cuda.supported(field) for field in fields.values()] == [False, True, True]
    for arch, room, wide in ((75, 64, False), (86, 99, True), (120, 99, True), (80, 163, True)):
        device = SimpleNamespace(major=arch // 10, minor=arch % 10, shared_memory_per_block_optin=room * 1024)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, device=device: device)
        assert [field_cuda.supported(fields[width]) for width in (64, 128)] == [True, wide]


def test_shared_constants_are_written_once():
    assert f"#define MIN_SCALE {MIN_SCALE}f\n" in compiler.source("splat")
    for file in FILES:
        texts = [path.read_text() for path in compiler.SOURCES.glob("*.cu*") if path.stem in (file, "mlp", "half")]
        for name in definitions(file, "sm_90"):
            assert not any(re.search(rf"#define {name}\b", text) for text in texts), f"{name} of {file} stands twice"
