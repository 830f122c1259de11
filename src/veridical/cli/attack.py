"""Attacks side by side, and the demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from veridical.runtime.checking import FilePath, Pictures
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.options import Gallery
from veridical.runtime.study_config import DemoOptions


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Gallery):
    """Finished attacks, and where the page goes.

    Args:
        attacks: Folders that `veridical attack` wrote, in the order of the page.
        out: Folder of result.json and report.html.
        titles: A name for each of them; None takes their objectives, and their folders where those are equal.
        any_protocol: Take attacks of any protocol, on any number of images; named by run and protocol.
        figure: File (.svg or .png) for the scatter of robust predictions against robust explanations.
        markdown: Print the tables as Markdown.
    """

    attacks: list[FilePath]
    out: FilePath
    titles: list[str] | None = None
    gallery: Pictures = 8
    any_protocol: bool = False
    figure: FilePath | None = None
    markdown: bool = False


def compare(options: CompareOptions) -> int:
    """Put finished attacks side by side on one page; the first is the one that the others are compared with.

    examples:
      veridical compare --attacks runs/natural-attack runs/igsum-attack --out runs/both
      veridical compare --attacks runs/*-attack --out runs/all --markdown --figure robustness.svg
      veridical compare --attacks runs/igsum-paper runs/igsum-strong --any-protocol --out runs/stronger

    All must have been attacked in the same way on the same images: otherwise their numbers do not
    compare. With --any-protocol they may differ, and the page has no pictures and no curves. Of two
    attacks of the same images the differences are shown image by image, second minus first.
    """
    from veridical.cli.terminal import print_results, say
    from veridical.runtime.files import claim_folder, result_document, write_json
    from veridical.studies.attack import Attack
    from veridical.studies.attack_page import (
        REPORT,
        attack_table,
        attack_verdict,
        paired_table,
        robustness_scatter,
        write_attack_page,
    )
    from veridical.studies.attack_result import check_comparable, name_attacks

    if len(options.attacks) < 2:
        raise argument_error("attacks", options.attacks, "at least two folders of finished attacks")
    found = [Attack.read(folder) for folder in options.attacks]
    attacks = name_attacks(found, options.titles, with_protocol=options.any_protocol)
    if not options.any_protocol:
        check_comparable(attacks)
    config = {name: attacked.config for name, attacked in attacks.items()}
    folder = claim_folder(options.out, "compare", {"attacks": config})
    results = {name: attacked.results for name, attacked in attacks.items()}
    surroundings = {name: attacked.document["environment"] for name, attacked in attacks.items()}
    timing = {name: attacked.document["timing"] for name, attacked in attacks.items()}
    write_json(folder / "result.json", result_document(results, config, surroundings, timing))
    data = next(iter(attacks.values())).config["data"]["name"]
    same = "" if options.any_protocol else ", attacked in the same way on the same images"
    page = write_attack_page(
        Path(folder) / REPORT,
        attacks,
        title=f"What an attack leaves of explanations on {data}",
        lead=f"{len(attacks)} models{same}.",
        gallery=options.gallery,
        any_protocol=options.any_protocol,
    )
    print_results(attack_table(attacks), markdown=options.markdown, transposed="measure")
    if len(attacks) == 2:
        try:
            paired = paired_table(attacks)
        except UsageError as error:
            say(f"no differences image by image: {error}")
        else:
            print_results(paired, "image by image, second minus first", markdown=options.markdown)
    if not options.any_protocol:
        for headline in attack_verdict(attacks).headlines:
            say(headline)
    if options.figure is not None:
        robustness_scatter(attacks).savefig(options.figure)
        say(f"figure: {options.figure}")
    say(f"report: {page}")
    return 0


def demo(options: DemoOptions) -> int:
    """Train a natural and a robust model on digits, attack the explanations of both, show them side by side.

    examples:
      veridical demo
      veridical demo --short --out runs/quick

    Everything goes into one folder; an interrupted demo is continued by the same command. It ends by
    naming the page to open.
    """
    from veridical.cli.terminal import print_table, say, stage_bars
    from veridical.studies.attack_page import attack_table
    from veridical.studies.demo import demo as run_demo

    with stage_bars(shown=options.progress) as show:
        finished = run_demo(options, show)
    print_table(attack_table(finished.attacks).transposed("measure"))
    for line in finished.verdict:
        say(line)
    say(f"\nreport: {finished.page}")
    return 0
