"""Train a natural and a robust model on digits, attack the explanations of both, show them side by side.

examples:
  veridical demo
  veridical demo --short --out runs/quick

Everything goes into one folder; an interrupted demo is continued by the same command. It ends by naming the
page to open.
"""

from __future__ import annotations

from veridical.runtime.study_config import DemoOptions as Options

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Run the demo, print its table and verdict, and name the page. Errors are raised."""
    from veridical.cli.terminal import print_table, say, stage_bars
    from veridical.studies.attack_page import attack_table
    from veridical.studies.demo import demo

    with stage_bars(shown=options.progress) as show:
        finished = demo(options, show)
    print_table(attack_table(finished.attacks).transposed("measure"))
    for line in finished.verdict:
        say(line)
    say(f"\nreport: {finished.page}")
    return 0
