r"""Train on images with a planted shortcut and measure how far models, and their maps, rely on it.

examples:
  veridical shortcut --data fashion-mnist --objective natural adversarial \
      ig-norm ig-sum-norm --out runs/shortcut
  veridical shortcut --data mnist-5k --model mlp --code presence --rate 0.9 1.0 --out runs/presence

In training a small patch agrees with the class, by its place or presence, at the given rate. In testing it
agrees, is moved, or is gone: what is lost is how far a model relied on it. An interrupted study is continued
by the same command. DIR/report.html shows what came out, DIR/result.json has the numbers.
"""

from __future__ import annotations

from veridical.runtime.study_config import ShortcutStudyOptions as Options

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Train and measure, or continue; print what came out. Errors are raised."""
    from veridical.cli.studies import run_study
    from veridical.studies.shortcut import Shortcut

    return run_study(Shortcut, options)
