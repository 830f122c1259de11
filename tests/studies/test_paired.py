"""Differences of two attacks are those of the images that both classify correctly, and of no others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.runtime.errors import UsageError
from veridical.studies.attack_run import attack_run
from veridical.studies.attacked import Attacked
from veridical.studies.paired import differences, main, table

from .conftest import options_for


def attacked(taus: dict[int, float], wrong: tuple[int, ...] = (), **config: Any) -> Attacked:
    index = np.array(list(taus))
    values = np.array(list(taus.values()))
    label = np.zeros(len(taus), dtype=np.int64)
    arrays = {
        "index": index,
        "label": label,
        "predicted": np.isin(index, wrong).astype(np.int64),
        "kendall_tau": values,
        "topk_intersection": values / 2,
        "spearman": values,
        "windowed_topk_intersection": np.ones(len(taus)),
    }
    plain = {"radii": [0.1], "norm": "linf", "data": {"name": "x"}, "protocol": {"name": "paper"}, **config}
    document = {"config": plain, "environment": {"run": "/runs/a"}, "results": {}}
    return Attacked(Path("a"), document, arrays)


def test_images_are_paired_by_their_number() -> None:
    first = attacked({0: 0.5, 1: 0.6, 2: 0.9, 3: 0.1}, wrong=(3,))
    second = attacked({3: 0.9, 2: 0.8, 1: 0.4, 0: 0.6, 7: 0.0}, wrong=(0,))
    found = differences(first, second)
    # Images 1 and 2: -0.2 and -0.1.
    assert found["kendall_tau"]["value"] == pytest.approx(-0.15)
    assert found["topk_intersection"]["value"] == pytest.approx(-0.075)
    assert found["kendall_tau"]["n"] == 2
    line = table(first, second).splitlines()[3]
    assert line.startswith("| CO | 0.7500 | 0.6000 | -0.1500 (")


def test_what_does_not_pair_is_refused() -> None:
    with pytest.raises(UsageError, match="their radii differs"):
        differences(attacked({0: 0.5}), attacked({0: 0.5}, radii=[0.2]))
    with pytest.raises(UsageError, match="one radius"):
        differences(attacked({0: 0.5}, radii=[0.1, 0.2]), attacked({0: 0.5}))
    with pytest.raises(UsageError, match="no image of both"):
        differences(attacked({0: 0.5}), attacked({1: 0.5}))


def test_two_protocols_of_one_run(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    attack_run(options_for(place, "natural", protocol="paper", out=str(tmp_path / "paper")))
    fast = place / "natural-attack"
    assert main([str(tmp_path / "paper"), str(fast)]) == 0
    assert "| measure | natural (paper) | natural (paper-fast) | difference |" in capsys.readouterr().out
    # An attack does not differ from itself.
    assert main([str(fast), str(fast)]) == 0
    assert "| +0.0000 (+0.0000 to +0.0000) |" in capsys.readouterr().out
    assert main([str(fast), str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
