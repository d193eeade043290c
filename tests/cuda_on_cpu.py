"""CUDA kernels on a CPU: their sources, compiled by g++ with cuda_on_cpu.h, take the place of `compiler.run`.

For small problems only: a thread of a block costs a context, and every barrier a switch. What a GPU does beyond the
language (races between warps, limits of registers and shared memory) is not seen.
"""

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from stgvlib.ops.cuda import compiler
from stgvlib.ops.cuda.signatures import check_arguments, kernels

HEADER = Path(__file__).with_suffix(".h")
FUNCTION = re.compile(r"__device__ __forceinline__ (?:\w+ )+\w+\([^)]*\) \{")
WRAPPER = """
extern "C" void cpu_{name}(int grid_x, int grid_y, int grid_z, int block, {parameters}) {{
  launch({{grid_x, grid_y, grid_z}}, block, [=] {{ {name}({arguments}); }});
}}
"""


def available() -> bool:
    """Whether a compiler is there that knows fp16."""
    gcc = shutil.which("g++")
    return (
        bool(gcc)
        and int(subprocess.run([gcc, "-dumpversion"], capture_output=True, text=True).stdout.split(".")[0]) > 11
    )


def without_ptx(text: str) -> str:
    """A source without the functions that are written in PTX: the header has them."""
    kept, place = [], 0
    for found in FUNCTION.finditer(text):
        end, depth = found.end(), 1
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if "asm" in text[found.start() : end]:
            kept.append(text[place : found.start()])
            place = end
    return "".join(kept) + text[place:]


@lru_cache
def library(name: str, arch: str, variant: tuple) -> ctypes.CDLL:
    """The kernels of a file."""
    source = compiler.source(name, arch, variant)
    text = re.sub(r"^#line.*", "", without_ptx(source), flags=re.M)
    text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1* \2 = (\1*)dynamic_shared;", text)
    text = HEADER.read_text() + text
    for kernel, parameters in kernels(source).items():
        typed = [f"{p.kind}{'*' if p.pointer else ''} {p.name}" for p in parameters]
        names = ", ".join(p.name for p in parameters)
        text += WRAPPER.format(name=kernel, parameters=", ".join(typed), arguments=names)
    with tempfile.TemporaryDirectory() as folder:
        made, source = Path(folder, "kernels.so"), Path(folder, "kernels.cpp")
        source.write_text(text)
        options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-ffp-contract=off"]
        subprocess.run(["g++", *options, "-o", made, source], check=True)
        return ctypes.CDLL(str(made))


def run(name: str, function: str, grid: tuple, block: int, *arguments, shared=0, variant: tuple = (), arch="sm_90"):
    """`compiler.run` for tensors on a CPU."""
    check_arguments(compiler.source(name, arch, variant), function, arguments)
    values = [ctypes.c_int(number) for number in (*grid, block)]
    for value in arguments:
        if isinstance(value, torch.Tensor) or value is None:
            values.append(ctypes.c_void_p(value.data_ptr() if value is not None else None))
        else:
            values.append(ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int(value))
    getattr(library(name, arch, variant), f"cpu_{function}")(*values)
