"""Names of devices, and what the processor says of itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import veridical
from veridical.models import MODELS, build
from veridical.runtime import devices
from veridical.runtime.errors import UsageError
from veridical.runtime.guards import thread_count

XEON = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu sse2 avx512f avx512_bf16\n\n"
OLDER = "model name\t: Intel(R) Core(TM) i5\nflags\t\t: fpu sse2 avx2\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.fixture(autouse=True)
def _forget_the_processor() -> Iterator[None]:
    devices._cpu_details.cache_clear()
    yield
    devices._cpu_details.cache_clear()


def _with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_gpus(monkeypatch, 2)
    for name, index in (("auto", 0), ("cuda", 0), ("cuda:1", 1)):
        assert devices.resolve_device(name) == torch.device("cuda", index)
    assert devices.resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="between cuda:0 and cuda:1"):
        devices.resolve_device("cuda:2")
    for name in ("gpu", "cuda:", "cuda:-1", "CPU", ""):
        with pytest.raises(UsageError, match="device: expected"):
            devices.resolve_device(name)
    _with_gpus(monkeypatch, 0)
    assert devices.resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="sees no CUDA device"):
        devices.resolve_device("cuda")


@pytest.mark.parametrize(("info", "expected"), [(XEON, True), (ARM, True), (OLDER, False), (None, False)])
def test_the_processor_s_model_and_flags_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: str | None, expected: bool
) -> None:
    path = tmp_path / "cpuinfo"
    if info is not None:
        path.write_text(info + XEON.replace("Xeon", "Other") * expected)
    monkeypatch.setattr(devices, "_CPU_INFO", path)
    assert devices.supports_bf16("cpu") is expected
    if info == XEON:  # the first processor stands for all
        assert devices._cpu_details()["model"] == "Intel(R) Xeon(R)"


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("name", list(MODELS))
def test_no_network_gets_a_layout_whose_backward_pass_crashes(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    registers = {"AVX2": 8, "AVX512": 16}
    widths = (4, 6, 8, 12, 16, 64) if "width" in (MODELS.get(name).options or {}) else (None,)
    for width in widths:
        options: dict[str, Any] = {} if width is None else {"width": width}
        model = build(name, shape=(3, 8, 8), num_classes=3, seed=0, **options)
        narrow = name == "resnet18" and width is not None and width < registers[capability]
        plain = narrow or name == "mlp"
        assert devices.fast_layout(model) == (torch.contiguous_format if plain else torch.channels_last)
    assert devices.fast_layout(nn.Sequential(nn.Conv2d(3, 8, 1, stride=2))) == torch.contiguous_format
    assert devices.fast_layout(nn.Sequential(nn.Conv2d(3, 8, 1))) == torch.channels_last
    assert (
        devices.fast_layout(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv3d(1, 1, 2))) == torch.contiguous_format
    )


def test_the_environment_is_plain_and_says_what_computed() -> None:
    told = devices.environment("cpu", torch.float64, threads=3, seed=11)
    expected: dict[str, object] = {
        "veridical": veridical.__version__,
        "torch": str(torch.__version__),
        "device": "cpu",
    }
    expected |= {"gpu": None, "dtype": "float64", "threads": 3, "seed": 11}
    assert expected.items() <= told.items()
    assert told["cpu"]
    assert {type(value) for value in told.values()} <= {str, int, type(None)}
    with thread_count(2):
        assert devices.environment("cpu", "bfloat16")["threads"] == 2
