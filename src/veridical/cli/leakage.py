r"""Measure how much of the explanations lies in a block that tells nothing: feature leakage on BlockMNIST.

examples:
  veridical leakage --data block-mnist --source mnist --model mlp --model-options.width 512 \
      --objective natural adversarial ig-sum-norm --radius 0.1 0.2 --seeds 5 --out runs/leakage
  veridical leakage --model cnn --classes two --norm linf l2 --radius 0.1 1.0 --out runs/two

Every objective is trained at every radius, with the digit in a random block (BlockMNIST) and always on top
(BlockMNIST-Top), --seeds times. Trainings are jobs: an interrupted study is continued by the same command,
and studies that share a --store share trainings. DIR/report.html shows what came out, DIR/result.json has
the numbers.
"""

from __future__ import annotations

from veridical.runtime.study_config import LeakageOptions as Options

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Train and measure, or continue; print what came out. Errors are raised."""
    from veridical.cli.studies import run_study
    from veridical.studies.leakage import Leakage

    return run_study(Leakage, options)
