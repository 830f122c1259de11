"""Put finished attacks side by side on one page; the first is the one that the others are compared with.

examples:
  veridical compare --attacks runs/natural-attack runs/igsum-attack --out runs/both

All must have been attacked in the same way on the same images: otherwise their numbers do not compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from veridical.runtime.checking import FilePath, Pictures
from veridical.runtime.errors import argument_error
from veridical.runtime.options import Gallery


@dataclass(frozen=True, kw_only=True)
class Options(Gallery):
    """Finished attacks, and where the page goes.

    Args:
        attacks: Folders that `veridical attack` wrote, in the order of the page.
        out: Folder of result.json and report.html.
        titles: A name for each of them; None takes their objectives, and their folders where those are equal.
    """

    attacks: list[FilePath]
    out: FilePath
    titles: list[str] | None = None
    gallery: Pictures = 8


def run(options: Options) -> int:
    """Write the page, print the table and what it shows. Errors are raised."""
    from veridical.cli.terminal import attack_table, say
    from veridical.report.verdict import verdict
    from veridical.runtime.files import claim_folder, result_document, write_json
    from veridical.studies.attack_report import REPORT, sections, write_attack_report
    from veridical.studies.attacked import check_comparable, named, read_attack

    if len(options.attacks) < 2:
        raise argument_error("attacks", options.attacks, "at least two folders of finished attacks")
    attacks = named([read_attack(folder) for folder in options.attacks], options.titles)
    check_comparable(attacks)
    config = {name: attacked.config for name, attacked in attacks.items()}
    folder = claim_folder(options.out, "compare", {"attacks": config})
    results = {name: attacked.results for name, attacked in attacks.items()}
    surroundings = {name: attacked.document["environment"] for name, attacked in attacks.items()}
    timing = {name: attacked.document["timing"] for name, attacked in attacks.items()}
    write_json(folder / "result.json", result_document(results, config, surroundings, timing))
    data = next(iter(attacks.values())).config["data"]["name"]
    page = write_attack_report(
        Path(folder) / REPORT,
        attacks,
        title=f"What an attack leaves of explanations on {data}",
        lead=f"{len(attacks)} models, attacked in the same way on the same images.",
        gallery=options.gallery,
    )
    attack_table(results)
    for headline in verdict(sections(attacks), None).headlines:
        say(headline)
    say(f"report: {page}")
    return 0
