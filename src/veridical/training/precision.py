"""In which arithmetic a training computes: global flags of torch, set for a while and given back."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from veridical.runtime.devices import supports_bf16
from veridical.runtime.errors import UsageError


@contextmanager
def arithmetic(device: torch.device, *, bf16: bool = False) -> Iterator[None]:
    """Compute float32 products and convolutions exactly, or in bfloat16 on a CPU; deterministically on CUDA.

    Weights, sums and everything else stay float32. The global flags are restored, after exceptions too.
    Raises UsageError for bf16 where it could have no effect (`check_bf16`).
    """
    if bf16:
        check_bf16(device)
    with _oneDNN("bf16" if bf16 else "ieee"):
        cudnn = torch.backends.cudnn
        before = cudnn.deterministic, cudnn.benchmark
        try:
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = before


def check_bf16(device: torch.device) -> None:
    """Raise a UsageError that says what to do, unless bf16 changes how this device computes.

    The instructions alone do not tell: oneDNN rounds float32 operands to bfloat16 only where it gains by it
    (AMX), and silently computes in float32 elsewhere. So a small product is computed both ways and compared.
    """
    if device.type != "cpu":
        raise UsageError(f"bf16: this option is for CPUs, but the device is {device}. Leave bf16 out.")
    if not supports_bf16(device) or not _takes_effect():
        raise UsageError(
            "bf16: on this CPU PyTorch computes float32 networks in float32 anyway, since it has no bfloat16 "
            "matrix units (AMX) that oneDNN would use. Leave bf16 out."
        )


@functools.cache
def _takes_effect() -> bool:
    """Whether a product of float32 matrices gets bfloat16's error, about 1/256, rather than float32's."""
    left = torch.linspace(0.1, 1.3, 256 * 256).reshape(256, 256)
    with _oneDNN("ieee"):
        exact = left @ left
    with _oneDNN("bf16"):
        rounded = left @ left
    return bool(((rounded - exact).abs() / exact).max() > 1e-5)


@contextmanager
def _oneDNN(precision: str) -> Iterator[None]:  # noqa: N802 - the library's name
    """Set what oneDNN may do with float32 operands: "ieee" or "bf16"."""
    mkldnn: Any = torch.backends.mkldnn
    before = mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision
    try:
        mkldnn.conv.fp32_precision = mkldnn.matmul.fp32_precision = precision
        yield
    finally:
        mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision = before
