"""`veridical theory`: the theorems where the truth is known."""

from __future__ import annotations

from veridical.runtime.study_config import TheoryOptions


def theory(options: TheoryOptions) -> int:
    r"""Check the theorems of both papers where the truth is known.

    examples:
      veridical theory one-layer --out runs/one-layer
      veridical theory block-margin --out runs/block-margin

    one-layer trains a linear model by IG-NORM, by adversarial training and by a soft max-margin: the
    theorem says that the three are one. block-margin constructs the max-margin classifier of the block
    world, proves it by its dual, and trains networks of one hidden layer, naturally and adversarially, to
    see what their gradients mark. Interrupted, it is continued by the same command. DIR/report.html shows
    what came out, DIR/result.json has the numbers.
    """
    from veridical.cli.terminal import print_table, say, stage_jobs
    from veridical.report import Table
    from veridical.studies.theory import theory_run
    from veridical.studies.theory_report import experiment_of, write_theory_report

    with stage_jobs(shown=options.progress) as progress:
        document = theory_run(options, progress)
    told = experiment_of(document)
    print_table(Table(told.columns, told.rows(document["results"])), told.title)
    for line in told.headlines(document["results"]):
        say(line)
    say(f"report: {write_theory_report(options.out, document)}")
    return 0
