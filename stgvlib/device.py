"""Which device and which kernels run, decided once and explained by `stgv info --system`.

`--device auto` takes CUDA where our kernels can run there and the CPU otherwise. STGV_BACKEND=reference forces the
dense torch operations (the specification) on any device; it is meant for checking, not for fitting.
"""

import gc
import os
import platform
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from stgvlib.errors import StgvError


def cuda_status() -> tuple[bool, str]:
    """Whether our CUDA kernels can run here, and why (not)."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        return False, "torch sees no CUDA GPU" if built else "this torch is a CPU build"
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < (7, 5):
        return False, f"{torch.cuda.get_device_name()} is sm_{major}{minor}, our kernels need sm_75 or newer"
    try:
        from stgvlib.ops.cuda.compiler import cached_cubin, nvrtc_version

        nvrtc = ".".join(map(str, nvrtc_version()))
    except Exception as error:  # cuda-core raises its own types for a missing library
        return False, f"NVRTC cannot be used ({_line(error)}): ./run_all.sh setup installs it"
    try:
        cached_cubin("optimizer", f"sm_{major}{minor}")
    except Exception as error:
        return (
            False,
            f"NVRTC {nvrtc} cannot compile for {torch.cuda.get_device_name()}, sm_{major}{minor} ({_line(error)})",
        )
    return True, f"{torch.cuda.get_device_name()}, sm_{major}{minor}, NVRTC {nvrtc}"


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """Capture what is launched inside a `with` block. Garbage waits meanwhile: an older graph in it, freed while this
    one is captured, would break it (seen with field "d2gv" after other fits of the process)."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph):
            yield
    finally:
        if collects:
            gc.enable()


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def fallback_reason() -> str | None:
    """Why `auto` takes the CPU although torch sees a GPU; None where it does not."""
    usable, why = cuda_status()
    return why if torch.cuda.is_available() and not usable else None


def resolve_device(name: str = "auto") -> torch.device:
    """Turn auto | cpu | cuda | cuda:K into a device. Raises StgvError when CUDA is asked for and cannot run."""
    if name == "cpu":
        return torch.device("cpu")
    usable, why = cuda_status()
    if name == "auto":
        return torch.device("cuda" if usable else "cpu")
    if not name.startswith("cuda"):
        raise StgvError(f"device must be auto, cpu or cuda, got {name!r}")
    if not usable:
        raise StgvError(f"device {name!r} was asked for, but {why}; use --device cpu")
    device = torch.device(name)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise StgvError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()} GPUs")
    return device


def select_device(name: str) -> torch.device:
    """`resolve_device`, and a GPU that is named by its number becomes torch's current one."""
    device = resolve_device(name)
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def use_threads(number: int | None) -> None:
    """CPU threads of torch, of our kernels, which follow torch, and of OpenCV; None: one a core. Raises StgvError."""
    if number is None:
        return
    if number < 1:
        raise StgvError(f"threads must be at least 1, got {number}")
    import cv2

    torch.set_num_threads(number)
    cv2.setNumThreads(number)


def kernels_for(tensor: torch.Tensor) -> str:
    """reference | numba | cuda for one tensor: float64 always takes the reference."""
    forced = os.environ.get("STGV_BACKEND", "")
    if forced not in ("", "reference", "gsplat", "tinycudann"):
        raise StgvError(f"STGV_BACKEND must be reference, gsplat or tinycudann, got {forced!r}")
    if forced == "reference" or tensor.dtype != torch.float32:
        return "reference"
    return "cuda" if tensor.is_cuda else "numba"


def library_versions() -> dict[str, str]:
    """Versions of what numbers depend on, for run records and `stgv info --system`."""
    names = ("stgvlib", "torch", "numpy", "numba", "cuda-core", "nvidia-cuda-nvrtc", "opencv-python", "pytorch-msssim")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def driver_version() -> str:
    """The NVIDIA driver's version, as nvidia-smi prints it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def device_name(device: torch.device) -> str:
    """The name that tables and benchmark rows carry."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {os.cpu_count()} cores"


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def system_info() -> dict:
    """What `stgv info --system` prints."""
    usable, why = cuda_status()
    device = resolve_device()
    kernels = os.environ.get("STGV_BACKEND") or ("own CUDA kernels" if usable else "numba")
    return {
        "device": device_name(device),
        "kernels": kernels,
        "cuda": usable,
        "why": why,
        "cpu_threads": torch.get_num_threads(),
        "versions": library_versions(),
    }


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """TF32 for torch's matrix products and convolutions on a GPU; nothing changes on a CPU.

    Two of torch's warnings help nobody here: autograd's own thread has no CUDA context yet when it meets its first
    product, and compiling a field looks at gradients of tensors that have none."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attempting to run cuBLAS")
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def compiled(what, device: torch.device):
    """A module (in place) or function that torch.compile fuses on a GPU, where Triton is installed; nothing changes
    elsewhere."""
    if device.type != "cuda" or find_spec("triton") is None:
        return what
    if isinstance(what, torch.nn.Module):
        what.compile(dynamic=False)
        return what
    return torch.compile(what, dynamic=False)
