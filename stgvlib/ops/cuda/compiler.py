"""Compile the .cu files to cubins with NVRTC, cache them on disk, and launch kernels on torch's current stream.

The cache lies in $STGV_CACHE, else ~/.cache/stgvlib, and is keyed by source, architecture, options and NVRTC version.
Compiling needs no GPU and no driver, so continuous integration compiles every kernel for every supported architecture.
"""

import hashlib
import io
import os
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from cuda.core import LaunchConfig, ObjectCode, Program, ProgramOptions, Stream, launch

from stgvlib.files import cache_folder
from stgvlib.ops.constants import definitions
from stgvlib.ops.cuda.signatures import check_arguments

SOURCES = Path(__file__).parent
SHARED = {  # beside half.cuh, which all kernel files begin with
    "splat": ("splat.cuh",),
    "splat_mse": ("add.cuh", "mma.cuh", "splat.cuh"),
    "hash_encoding": ("add.cuh",),
    "mlp_forward": ("mma.cuh", "mlp.cuh"),
    "mlp_backward": ("mma.cuh", "mlp.cuh"),
    "rate": ("rate.cuh",),
    "changes": ("rate.cuh",),
}
CHECK = os.environ.get("STGV_CHECK") == "1"  # every launch's arguments against its kernel's parameters
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


@lru_cache
def nvrtc_version() -> tuple[int, int]:
    """(major, minor) of the NVRTC library that is found. Raises what cuda-core raises when there is none."""
    from cuda.bindings import nvrtc

    status, major, minor = nvrtc.nvrtcVersion()
    if int(status) != 0:
        raise RuntimeError(f"nvrtcVersion answered {status}")
    return major, minor


@lru_cache
def source(name: str, arch: str = "sm_90", variant: tuple = ()) -> str:
    """The text of `name`.cu after constants that Python shares with it, and what it shares with other kernel files. An
    include would need a folder to search. `variant`: of constants.definitions."""
    defined = "".join(f"#define {key} {value}\n" for key, value in definitions(name, arch, variant).items())
    files = ["half.cuh", *SHARED.get(name, ()), f"{name}.cu"]
    return defined + "".join(f'#line 1 "{file}"\n{(SOURCES / file).read_text()}' for file in files)


def compile_cubin(name: str, arch: str, logs: io.StringIO | None = None, variant: tuple = ()) -> bytes:
    """Compile `name`.cu for `arch` (sm_90 ...). With `logs`, ptxas reports registers and spills there."""
    options = ProgramOptions(std="c++17", arch=arch, ptxas_options=["-v"] if logs is not None else None)
    program = Program(source(name, arch, variant), "c++", options)
    return bytes(program.compile("cubin", logs=logs).code)


def cached_cubin(name: str, arch: str, variant: tuple = ()) -> bytes:
    """The cubin from the disk cache, compiled when missing. An unwritable cache only costs the compilation."""
    key = hashlib.sha256((source(name, arch, variant) + repr((arch, nvrtc_version()))).encode()).hexdigest()[:24]
    path = cache_folder() / f"{name}-{arch}-{key}.cubin"
    if path.is_file():
        return path.read_bytes()
    cubin = compile_cubin(name, arch, variant=variant)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(cubin)
        os.replace(file.name, path)
    except OSError:
        pass
    return cubin


@lru_cache
def kernel(name: str, function: str, device: int, variant: tuple = ()):
    """The loaded kernel; torch's primary context of `device` must be current."""
    major, minor = torch.cuda.get_device_capability(device)
    return _module(name, f"sm_{major}{minor}", device, variant).get_kernel(function)


@lru_cache
def _module(name: str, arch: str, device: int, variant: tuple) -> ObjectCode:
    return ObjectCode.from_cubin(cached_cubin(name, arch, variant))


@lru_cache
def _stream(handle: int, device: int) -> Stream:  # the default stream has the same handle on every device
    return Stream.from_handle(handle)


@lru_cache(maxsize=4096)
def _config(grid: tuple, block: int, shared: int) -> LaunchConfig:
    return LaunchConfig(grid=grid, block=block, shmem_size=shared)


@lru_cache
def _allow_shared(name: str, function: str, device: int, variant: tuple, bytes_: int) -> None:
    """A kernel must be told before its static and dynamic shared memory may pass 48 KB together."""
    from cuda.bindings import driver

    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    handle = driver.CUkernel(int(kernel(name, function, device, variant).handle))
    (status,) = driver.cuKernelSetAttribute(attribute, bytes_, handle, device)
    if int(status) != 0:
        raise RuntimeError(f"{function} cannot have {bytes_} bytes of shared memory: {status.name}")


def run(name: str, function: str, grid: tuple, block: int, *arguments, shared: int = 0, variant: tuple = ()) -> None:
    """Launch `function` of `name`.cu on the device of its tensors, on torch's current stream there.

    Tensors pass their address, ints become int32, floats float32, None a null pointer. `variant` is that of
    constants.definitions. With STGV_CHECK=1 (read on import) the arguments are checked against the kernel's parameters.
    Raises ValueError for tensors that are not all of one GPU.
    """
    if CHECK:
        check_arguments(source(name), function, arguments)
    devices = {a.get_device() for a in arguments if isinstance(a, torch.Tensor)}  # -1: not of a GPU
    if len(devices) != 1 or min(devices) < 0:
        found = sorted({str(a.device) for a in arguments if isinstance(a, torch.Tensor)})
        raise ValueError(f"{function} takes tensors of one GPU, got {', '.join(found) or 'none'}")
    (device,) = devices
    values = [_argument(value) for value in arguments]
    with torch.cuda.device(device):
        if shared > 16 * 1024:  # none of these has more than 32 KB of static shared memory
            _allow_shared(name, function, device, variant, shared)
        stream = _stream(torch.cuda.current_stream().cuda_stream, device)
        launch(stream, _config(grid, block, shared), kernel(name, function, device, variant), *values)


def _argument(value):
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    if isinstance(value, float):
        return np.float32(value)
    if value is None:
        return 0
    return np.int32(value)
