"""Which device to compute on, what it can do, and what a result says of the machine."""

import functools
import os
import platform
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from veridical._version import __version__
from veridical.runtime.errors import UsageError, argument_error

_CPU_INFO = Path("/proc/cpuinfo")
_MEMORY_INFO = Path("/proc/meminfo")
# x86: AVX-512 and AMX instructions that multiply bfloat16; Arm: FEAT_BF16.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def resolve_device(name: str) -> torch.device:
    """Turn "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:N" into a device that exists."""
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise argument_error("device", name, '"auto", "cpu", "cuda" or "cuda:N"')
    if not torch.cuda.is_available():
        raise UsageError(f"device: {name} was asked for, but PyTorch sees no CUDA device. Use cpu or auto.")
    index, count = int(match[1] or 0), torch.cuda.device_count()
    if index >= count:
        raise argument_error("device", name, f"a GPU between cuda:0 and cuda:{count - 1}")
    return torch.device("cuda", index)


def supports_bf16(device: torch.device | str) -> bool:
    """Say whether the device multiplies bfloat16 itself; elsewhere that is emulated, slower than float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and not _BF16_FLAGS.isdisjoint(_cpu_details()["flags"].split())


def fast_layout(model: nn.Module) -> torch.memory_format:
    """The memory format in which a network is trained and measured: channels_last with 2-d convolutions.

    With AVX2 alone, where 5x5 convolutions are a tenth slower in it, 3x3 ones are quicker, and whole steps of
    either network not slower beyond noise (`benchmarks/layout.py`); so nothing is timed, and a run's numbers
    do not hang on a stopwatch. Contiguous without such layers, for weights of five dimensions, and where the
    backward pass of a strided 1x1 convolution would write beyond its memory: torch's oneDNN does so in
    channels_last for fewer input channels than a vector register has numbers.
    """
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    vector = 8 if torch.backends.cpu.get_cpu_capability() == "AVX2" else 16
    deep = any(value.ndim == 5 for value in model.state_dict().values() if isinstance(value, torch.Tensor))
    unsafe = deep or any(
        set(layer.kernel_size) == {1} and set(layer.stride) != {1} and layer.in_channels < vector
        for layer in convolutions
    )
    return torch.channels_last if convolutions and not unsafe else torch.contiguous_format


def rows_at_once(inputs: torch.Tensor, most: int, kept: int) -> int:
    """How many rows like those of `inputs` (N, ...) a pass takes where nobody says: `most`, or what fits.

    kept: bytes that a pass keeps for each byte of a row. What fits is 2 GiB (8 on a GPU), and a quarter of
    the memory that is free. Small work fits without asking the system.
    """
    # At least 1: an empty batch has rows of no bytes.
    row = max(1, kept * inputs.element_size() * inputs[:1].numel())
    if most * row <= 2**28:
        return most
    limit = 2**33 if inputs.device.type == "cuda" else 2**31
    return max(1, min(most, min(limit, free_memory(inputs.device) // 4) // row))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on the device; more than there are anywhere if the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", _MEMORY_INFO.read_text(encoding="utf-8"))
    except OSError:  # not Linux
        match = None
    return int(match[1]) * 1024 if match else 2**62


@functools.cache
def _cpu_details() -> dict[str, str]:
    """Return the processor's {"model", "flags"} as Linux tells them; both are empty where it does not."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    fields: dict[str, str] = {}
    # The first processor stands for all: later ones do not overwrite it.
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    return {"model": fields.get("model name", ""), "flags": fields.get("flags", fields.get("features", ""))}


def environment(
    device: torch.device | str, dtype: torch.dtype | str, threads: int | None = None, seed: int | None = None
) -> dict[str, object]:
    """Return plain values that say what computed a result; `threads` defaults to what torch uses now."""
    where = torch.device(device)
    return {
        "veridical": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_details()["model"] or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": str(where),
        "gpu": torch.cuda.get_device_name(where) if where.type == "cuda" else None,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads() if threads is None else threads,
        "seed": seed,
    }
