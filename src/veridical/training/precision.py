"""In which arithmetic a training computes: global flags of torch, set for a while and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from veridical.runtime.devices import supports_bf16
from veridical.runtime.errors import UsageError


@contextmanager
def arithmetic(device: torch.device, *, bf16: bool = False) -> Iterator[None]:
    """Compute float32 products and convolutions exactly, or in bfloat16 on a CPU; deterministically on CUDA.

    Weights, sums and everything else stay float32. The global flags are restored, after exceptions too.
    Raises UsageError for bf16 on a device that cannot multiply bfloat16 itself.
    """
    if bf16:
        check_bf16(device)
    mkldnn, cudnn = torch.backends.mkldnn, torch.backends.cudnn
    before = mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision
    cuda_before = cudnn.deterministic, cudnn.benchmark
    chosen = "bf16" if bf16 else "ieee"
    try:
        mkldnn.conv.fp32_precision = mkldnn.matmul.fp32_precision = chosen
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision = before
        cudnn.deterministic, cudnn.benchmark = cuda_before


def check_bf16(device: torch.device) -> None:
    """Raise a UsageError that says what to do, unless bf16 makes sense on this device."""
    if device.type != "cpu":
        raise UsageError(
            f"bf16: this option speeds up CPUs, but the device is {device}. Leave bf16 out, or ask for device cpu."
        )
    if not supports_bf16(device) or not torch.backends.mkldnn.is_available():
        raise UsageError(
            "bf16: this CPU has no bfloat16 instructions (AVX-512 BF16, AMX or Arm BF16), or this PyTorch was "
            "built without oneDNN; it would be slower than float32. Leave bf16 out."
        )
