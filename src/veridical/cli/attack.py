r"""Attack the predictions and the explanations of a trained run and measure what holds.

examples:
  veridical attack --run runs/igsum --data fashion-mnist --protocol paper-fast --examples 1000 \
      --out runs/igsum-attack
  veridical attack --run runs/igsum --protocol strong --radius 0.02 0.05 0.1 --out runs/igsum-strong

An interrupted attack is continued by the same command. DIR/report.html shows what came out, DIR/result.json
has the numbers, DIR/examples.npz those of every image. --workers shares the images among processes, one for
each GPU where there are several, and --scheduler among those of a Dask cluster on several machines.
"""

from __future__ import annotations

from pathlib import Path

from veridical.runtime.study_config import AttackOptions as Options

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Attack, or continue; write the results and the page, print what came out. Errors are raised."""
    from veridical.cli.terminal import print_table, say, stage_jobs
    from veridical.studies.attack import attack_run
    from veridical.studies.attack_page import REPORT, attack_table, write_attack_page
    from veridical.studies.attack_result import read_attack, run_title

    with stage_jobs(shown=options.progress) as progress:
        attack_run(options, progress)
    attacked = read_attack(options.out)
    name, config = run_title(attacked), attacked.config
    page = write_attack_page(
        Path(options.out) / REPORT,
        {name: attacked},
        title=f"How {name} on {config['data']['name']} holds under attack",
        lead=f"The predictions and explanations of {options.run}, attacked by protocol {options.protocol}.",
        gallery=options.gallery,
    )
    print_table(attack_table({name: attacked}).transposed("measure"))
    for note in attacked.results["notes"]:
        say(f"note: {note}")
    say(f"report: {page}")
    return 0
