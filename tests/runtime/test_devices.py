"""Names of devices, and what the processor says of itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from veridical.runtime import devices
from veridical.runtime.errors import UsageError

XEON = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu sse2 avx512f avx512_bf16\n\n"
OLDER = "model name\t: Intel(R) Core(TM) i5\nflags\t\t: fpu sse2 avx2\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.fixture(autouse=True)
def _forget_the_processor() -> Iterator[None]:
    devices.cpu_details.cache_clear()
    yield
    devices.cpu_details.cache_clear()


def _with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_takes_the_first_gpu_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_gpus(monkeypatch, 0)
    assert devices.resolve_device("auto") == torch.device("cpu")
    _with_gpus(monkeypatch, 2)
    assert devices.resolve_device("auto") == torch.device("cuda", 0)


def test_named_devices_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_gpus(monkeypatch, 2)
    assert devices.resolve_device("cpu") == torch.device("cpu")
    assert devices.resolve_device("cuda") == torch.device("cuda", 0)
    assert devices.resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="between cuda:0 and cuda:1"):
        devices.resolve_device("cuda:2")
    for name in ("gpu", "cuda:", "cuda:-1", "CPU", ""):
        with pytest.raises(UsageError, match="device: expected"):
            devices.resolve_device(name)
    _with_gpus(monkeypatch, 0)
    with pytest.raises(UsageError, match="sees no CUDA device"):
        devices.resolve_device("cuda")


@pytest.mark.parametrize(("info", "expected"), [(XEON, True), (ARM, True), (OLDER, False), (None, False)])
def test_bf16_follows_the_processors_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: str | None, expected: bool
) -> None:
    path = tmp_path / "cpuinfo"
    if info is not None:
        path.write_text(info)
    monkeypatch.setattr(devices, "_CPU_INFO", path)
    assert devices.supports_bf16("cpu") is expected


def test_the_first_processors_model_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(XEON + XEON.replace("Xeon", "Other"))
    monkeypatch.setattr(devices, "_CPU_INFO", path)
    assert devices.cpu_details()["model"] == "Intel(R) Xeon(R)"
