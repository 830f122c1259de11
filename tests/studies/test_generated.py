"""`veridical make-block-mnist` and `make-shortcut`, and the picture of all kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from veridical.cli.main import main
from veridical.data import load
from veridical.data.block_mnist import BlockOptions, block_mnist
from veridical.data.masked import load_masked
from veridical.data.shortcut import ShortcutOptions, shortcut
from veridical.studies import generated
from veridical.training.run import load as load_run


@pytest.fixture
def source(tmp_path: Path) -> str:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 14, 14), dtype=np.uint8)
    labels = np.arange(60) % 3
    path = tmp_path / "source.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])
    return str(path)


def test_blocks_are_written_described_and_trained_on(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], check_page: Callable[[Path], None]
) -> None:
    out = tmp_path / "blocks"
    blocks = ["make-block-mnist", "--source", source, "--null", "noise", "--layout", "2", "--out", str(out)]
    assert main(blocks) == 0
    assert capsys.readouterr().out.splitlines() == [
        "images: 60 train, 20 test",
        f"data: {out / 'data.npz'}",
        f"report: {out / 'report.html'}",
    ]
    made = block_mnist(BlockOptions(source=source, null="noise", layout=2))
    assert load_masked(out / "data.npz").describe() == made.describe()
    document = json.loads((out / "result.json").read_text())
    assert document["config"]["data"]["checksum"] == made.checksum
    assert document["config"]["layout"] == 2
    found = document["results"]["train"]
    assert (found["images"], found["mask_share"]) == (60, 0.25)
    assert found["by_class"] == {"0": 20, "1": 20, "2": 20}
    assert sum(found["by_place"]["block"].values()) == 60
    assert "The first train images" in (out / "report.html").read_text()
    check_page(out / "report.html")
    arguments = ["train", "--data", str(out / "data.npz"), "--model", "mlp", "--objective", "natural"]
    arguments += ["--steps", "2", "--validation", "10", "--no-progress", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert load_run(tmp_path / "run").result["config"]["data"]["checksum"] == made.checksum


def test_the_same_command_keeps_what_is_there_and_other_options_are_refused(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "blocks"
    arguments = ["make-block-mnist", "--source", source, "--position", "0.7", "--gallery", "3"]
    arguments += ["--out", str(out)]
    assert main([*arguments, "--moved", "1"]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {"claim.json", "data.npz", "result.json", "report.html"}
    assert main([*arguments, "--moved", "1"]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    moved = block_mnist(BlockOptions(source=source, position=0.7), moved=1)
    assert load(out / "data.npz").checksum == moved.checksum
    assert main(arguments) == 2
    assert "moved is 1 there, 0 here" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "other"), "--gallery", "0"]) == 2
    assert main([*arguments[:-1], str(tmp_path / "other"), "--null", "nothing"]) == 2


def test_what_is_refused_does_not_take_the_folder(source: str, tmp_path: Path) -> None:
    out = str(tmp_path / "blocks")
    for wrong in (["--position", "2"], ["--contrast", "0"], ["--moved", "2"], ["--moved", "-1"]):
        assert main(["make-block-mnist", "--source", source, "--out", out, *wrong]) == 2
    assert main(["make-block-mnist", "--source", source, "--out", out]) == 0
    out = str(tmp_path / "planted")
    assert main(["make-shortcut", "--source", source, "--out", out, "--size", "13"]) == 2
    assert main(["make-shortcut", "--source", source, "--out", out, "--size", "3"]) == 0


def test_a_shortcut_is_written(source: str, tmp_path: Path) -> None:
    out = tmp_path / "shortcut"
    arguments = ["make-shortcut", "--source", source, "--size", "3", "--rate", "1", "--test", "gone"]
    assert main([*arguments, "--out", str(out), "--gallery", "7"]) == 0
    made = shortcut(ShortcutOptions(source=source, size=3, rate=1.0, test="gone"))
    assert load_masked(out / "data.npz").describe() == made.describe()
    results = json.loads((out / "result.json").read_text())["results"]
    by_place = {"place": {"0": 20, "1": 20, "2": 20}, "agrees": {"1": 60}}
    assert results["train"]["by_place"] == by_place
    assert (results["test"]["by_place"]["place"], results["test"]["mask_share"]) == ({"-1": 20}, 0)
    missing = ["--source", "mnist", "--data-root", str(tmp_path), "--out", str(out / "x")]
    assert main(["make-shortcut", *missing]) == 1


def test_the_picture_of_all_kinds_has_every_null_position_and_layout(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = generated.KINDS.values()
    assert {kind.null for kind in kinds} == {"square", "filled", "noise", "scramble"}
    assert {"random", "top", "bottom"} < {kind.position for kind in kinds}
    assert {"vertical", "horizontal", 3} == {kind.layout for kind in kinds}
    some = {"plain": BlockOptions(), "grid": BlockOptions(layout=3, null="scramble", tile=7)}
    monkeypatch.setattr(generated, "KINDS", some)
    target = tmp_path / "figures" / "blocks.png"
    command = ["make-block-mnist", "--source", source, "--out", str(tmp_path / "out"), "--figure"]
    assert main([*command, str(target.with_suffix(".docx"))]) == 2
    assert not (tmp_path / "out").exists()
    assert main([*command, str(target)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"figure: {target}"
    assert target.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
