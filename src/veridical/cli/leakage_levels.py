"""Null shares of finished leakage studies at every level, as a Markdown table and a figure.

examples:
  veridical leakage-levels runs/leakage-mlp runs/leakage-cnn --figure leakage.svg
"""

from __future__ import annotations

from veridical.studies.leakage import LevelsOptions as Options

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Print the table, draw the figure. Errors are raised."""
    from veridical.cli.terminal import say
    from veridical.studies.leakage import compare_levels

    say(compare_levels(options))
    return 0
