"""Global flags of torch: set where they are meant, given back always."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veridical.data import Dataset
from veridical.runtime.errors import UsageError
from veridical.training import optimisation as precision
from veridical.training.loop import train
from veridical.training.optimisation import arithmetic, check_bf16

CPU = torch.device("cpu")


def flags() -> tuple[Any, ...]:
    mkldnn: Any = torch.backends.mkldnn
    cudnn = torch.backends.cudnn
    return mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision, cudnn.deterministic, cudnn.benchmark


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this CPU computes in bfloat16."""
    monkeypatch.setattr(precision, "supports_bf16", lambda _: True)
    monkeypatch.setattr(precision, "_takes_effect", lambda: True)


def test_float32_means_float32_whatever_the_caller_has_set() -> None:
    before = flags()
    with arithmetic(CPU):
        assert flags() == ("ieee", "ieee", True, False)
    assert flags() == before


@pytest.mark.usefixtures("capable")
def test_flags_are_given_back_after_an_exception() -> None:
    def fail() -> None:
        with arithmetic(CPU, bf16=True):
            assert flags()[:2] == ("bf16", "bf16")
            with arithmetic(CPU):
                assert flags()[:2] == ("ieee", "ieee")
            assert flags()[:2] == ("bf16", "bf16")
            raise ArithmeticError

    before = flags()
    with pytest.raises(ArithmeticError):
        fail()
    assert flags() == before


def test_a_gpu_is_told_that_the_option_is_for_cpus() -> None:
    with pytest.raises(UsageError, match="cuda"):
        check_bf16(torch.device("cuda", 0))


@pytest.mark.parametrize("missing", ["supports_bf16", "_takes_effect"])
@pytest.mark.usefixtures("capable")
def test_a_cpu_without_it_is_an_error_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stripes: Dataset, missing: str
) -> None:
    monkeypatch.setattr(precision, missing, lambda *_: False)
    with pytest.raises(UsageError, match="Leave bf16 out"):
        train(data=stripes, model="mlp", out=str(tmp_path / "run"), bf16=True)
    assert not (tmp_path / "run").exists()


def test_the_probe_agrees_with_a_larger_product() -> None:
    """Where the probe says that bf16 takes effect, products must show its rounding, and only there."""
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(200, 300, generator=generator)
    exact = (left.double() @ left.double().T).float()
    mkldnn: Any = torch.backends.mkldnn
    before = mkldnn.matmul.fp32_precision
    try:
        mkldnn.matmul.fp32_precision = "bf16"
        error = ((left @ left.T - exact) / exact).abs().max()
    finally:
        mkldnn.matmul.fp32_precision = before
    assert bool(error > 1e-5) == precision._takes_effect()


class Watched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        SEEN.add((self.training, *flags()[:2]))
        logits: Tensor = self.layer(inputs.flatten(1))
        return logits


SEEN: set[tuple[bool, str, str]] = set()


@pytest.mark.usefixtures("capable")
def test_training_uses_bf16_and_metrics_do_not(tmp_path: Path, stripes: Dataset) -> None:
    SEEN.clear()
    run = train(
        data=stripes, model=Watched(), out=str(tmp_path / "run"), objective="natural", steps=3, bf16=True,
        progress=False,
    )  # fmt: skip
    assert sorted(SEEN) == [(False, "ieee", "ieee"), (True, "bf16", "bf16")]
    assert run.settings.bf16
    assert "precision" in {entry["what"] for entry in run.result["results"]["deviations"]}
