"""Kernels' parameters as their sources declare them, and whether a launch's arguments go with them."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

DTYPES = {  # of a pointer's target, or of the parts of a vector type such as float4
    "float": torch.float32,
    "int": torch.int32,
    "short": torch.int16,
    "uchar": torch.uint8,
    "unsigned char": torch.uint8,
    "uint": torch.float16,  # two in a word
    "ll": torch.int64,
    "long long": torch.int64,
    "Level": torch.int32,  # words of encoding.LEVEL
}
KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(([^)]*)\)', re.S)


class Parameter(NamedTuple):
    name: str
    kind: str  # float, int, ...
    pointer: bool
    nullable: bool  # NULLABLE in the source


@lru_cache
def kernels(text: str) -> dict[str, tuple[Parameter, ...]]:
    """The parameters of each kernel in a source text, also of those that a macro declares."""
    text = re.sub(r"//[^\n]*", "", text).replace("\\\n", " ")
    for macro, names, body in re.findall(r'^#define (\w+)\(([^)]*)\)(.*extern "C".*)', text, re.M):
        text = text.replace(body, "")
        for given in re.findall(rf"^{macro}\(([^)]*)\)", text, re.M):
            values = dict(zip(names.split(", "), given.split(", "), strict=True))
            text += re.sub(r"\w+", lambda word, values=values: values.get(word[0], word[0]), body)
    return {name: tuple(map(_parameter, given.split(","))) for name, given in KERNEL.findall(text)}


def _parameter(declared: str) -> Parameter:
    words = re.sub(r"\b(const|__restrict__|NULLABLE)\b|\*", " ", declared).split()
    return Parameter(words[-1], " ".join(words[:-1]), "*" in declared, "NULLABLE" in declared)


def check_arguments(text: str, function: str, arguments: Sequence) -> None:
    """Raises TypeError or ValueError, in one line, where a launch's arguments do not go with the kernel: their number,
    types, devices, and that tensors are contiguous and as vector types need them; None only for NULLABLE pointers."""
    parameters = kernels(text)[function]
    if len(arguments) != len(parameters):
        names = ", ".join(parameter.name for parameter in parameters)
        raise TypeError(f"{function} takes {len(parameters)} arguments ({names}), got {len(arguments)}")
    device = next((argument.device for argument in arguments if isinstance(argument, torch.Tensor)), None)
    for parameter, argument in zip(parameters, arguments):
        if problem := _problem(parameter, argument):
            raise TypeError(f"{function}: {parameter.name} must be {problem}")
        if isinstance(argument, torch.Tensor) and argument.device != device:
            raise ValueError(f"{function}: {parameter.name} must be on {device} as the others, got {argument.device}")


def _problem(parameter: Parameter, argument) -> str:
    """What was expected and came instead, or nothing."""
    if not parameter.pointer:
        wanted = float if parameter.kind == "float" else int
        right = isinstance(argument, wanted) and not isinstance(argument, bool)
        if right and wanted is int and not -(2**31) <= argument < 2**31:
            return f"int of 32 bits, got {argument}"
        return "" if right else f"{wanted.__name__}, got {type(argument).__name__}"
    if argument is None and parameter.nullable:
        return ""
    base = parameter.kind.rstrip("234")
    wanted, numbers = DTYPES[base], int(parameter.kind[len(base) :] or 1) * (2 if base == "uint" else 1)
    if not isinstance(argument, torch.Tensor):
        return f"a tensor, got {type(argument).__name__}"
    if argument.dtype != wanted:
        return f"{wanted} for {parameter.kind}*, got {argument.dtype}"
    if not argument.is_contiguous():
        return f"contiguous, got strides {argument.stride()} of {tuple(argument.shape)}"
    if argument.numel() % numbers:
        return f"a multiple of {numbers} numbers for {parameter.kind}*, got {tuple(argument.shape)}"
    size = numbers * argument.element_size()
    if size in (2, 4, 8, 16) and argument.data_ptr() % size:  # a float3 is loaded in parts
        return f"at a multiple of {size} bytes for {parameter.kind}*, got {argument.data_ptr() % size} too many"
    return ""
