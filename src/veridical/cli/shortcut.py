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
    """Train and measure, or continue; write the results and the page, print what came out."""
    from veridical.cli.terminal import print_table, say, stage_jobs
    from veridical.report import Table
    from veridical.studies.shortcut import shortcut_run
    from veridical.studies.shortcut_report import read_shortcut, write_shortcut_report
    from veridical.studies.shortcut_words import MAPS, RELIANCE, headlines, map_rows, reliance_rows

    with stage_jobs(shown=options.progress) as progress:
        shortcut_run(options, progress)
    study = read_shortcut(options.out)
    print_table(Table(RELIANCE, reliance_rows(study)), "accuracy, and what is lost without the patch")
    for name in study.config["attributions"]:
        print_table(Table(MAPS, map_rows(study, name)), f"{name}, with the patch as in training")
    for line in headlines(study):
        say(line)
    say(f"report: {write_shortcut_report(study)}")
    return 0
