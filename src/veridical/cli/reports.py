"""Finished studies side by side: attacks on one page, DiffROAR curves on another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from veridical.runtime.checking import POSITIONAL, Checked, FilePath, Pictures
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.options import Gallery


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
        check_comparable,
        name_attacks,
        paired_table,
        robustness_scatter,
        write_attack_page,
    )

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


@dataclass(frozen=True)
class ReportOptions(Checked):
    """Finished measurements, and where the page goes.

    Args:
        folders: Folders that `veridical diffroar` wrote, in the order of the page; the flag may be left out.
        out: The page, a file that ends in .html.
        titles: A name for each of them; None takes attribution and model, as far as they differ.
        figure: File (.svg or .png) for the differences over the levels.
        markdown: Print one table as Markdown.
    """

    folders: list[FilePath] = field(metadata=POSITIONAL)
    out: FilePath
    titles: list[str] | None = None
    figure: FilePath | None = None
    markdown: bool = False


def report(options: ReportOptions) -> int:
    """Overlay the curves of finished DiffROAR measurements on one page.

    examples:
      veridical diffroar-report runs/dr-natural runs/dr-l2 runs/dr-linf --out runs/diffroar.html
      veridical diffroar-report runs/dr-* --out runs/diffroar.html --markdown --figure diffroar.svg

    The first is the one that the others are compared with. All must have retrained the same networks on
    the same images in the same way: otherwise their numbers do not compare.
    """
    from veridical.cli.terminal import print_results, say
    from veridical.studies.diffroar import DiffRoar
    from veridical.studies.diffroar_page import (
        differences_figure,
        diffroar_headline,
        diffroar_table,
        name_measurements,
        write_diffroar_page,
    )

    # Refused before the folders are read, which takes longer.
    page = Path(options.out)
    if page.suffix.lower() not in (".html", ".htm") or page.is_dir():
        raise argument_error("out", options.out, "the name of a file that ends in .html")
    measured = name_measurements([DiffRoar.read(folder) for folder in options.folders], options.titles)
    data = next(iter(measured.values())).config["data"]["name"]
    page.parent.mkdir(parents=True, exist_ok=True)
    written = write_diffroar_page(
        page,
        measured,
        title="Which explanations mark what a network can learn from?",
        lead=f"{len(measured)} measurements of DiffROAR on {data}, with the same networks retrained.",
    )
    if options.markdown:
        say(diffroar_table(measured).to_markdown())
    for name, one in measured.items():
        if not options.markdown:
            print_results(diffroar_table({name: one}), name)
        say(diffroar_headline(name, one))
    if options.figure is not None:
        differences_figure(measured).savefig(options.figure)
        say(f"figure: {options.figure}")
    say(f"report: {written}")
    return 0
