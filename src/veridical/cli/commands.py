"""The table of commands, kept free of imports so that `veridical --help` answers at once."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command: the module that runs it, and what it does in one line.

    The module holds `Options`, a frozen dataclass whose fields become the command's options, and
    `run(options) -> int`, which returns the exit code. It imports torch only inside functions, so that
    `veridical COMMAND --help` answers at once as well. `SHARED = True` in it says that several processes can
    do the command together, as torchrun starts them.
    """

    module: str
    summary: str


COMMANDS: Mapping[str, Command] = {
    "train": Command("veridical.cli.train", "train a classifier, plainly or so that explanations hold still"),
    "attack": Command("veridical.cli.attack", "attack the explanations of a trained run, measure what holds"),
    "compare": Command("veridical.cli.compare", "put finished attacks side by side on one page"),
    "diffroar": Command(
        "veridical.cli.diffroar", "measure by retraining whether an attribution marks what tells"
    ),
    "diffroar-report": Command(
        "veridical.cli.diffroar_report", "overlay curves of finished diffroars on a page"
    ),
    "sanity": Command("veridical.cli.sanity", "check whether explanations care what a network has learnt"),
    "leakage": Command(
        "veridical.cli.leakage", "measure what explanations mark in a block that tells nothing"
    ),
    "leakage-levels": Command(
        "veridical.cli.leakage_levels", "tabulate finished leakage studies at every level"
    ),
    "shortcut": Command("veridical.cli.shortcut", "measure how far models rely on a planted shortcut"),
    "alignment": Command("veridical.cli.alignment", "measure how much of the maps lies where people look"),
    "theory": Command("veridical.cli.theory", "check the papers' theorems where the truth is known"),
    "demo": Command("veridical.cli.demo", "train, attack and show a natural and a robust model on digits"),
    "make-block-mnist": Command(
        "veridical.cli.make_block_mnist", "write images of blocks of which one carries the label"
    ),
    "make-shortcut": Command("veridical.cli.make_shortcut", "write images with a planted shortcut"),
    "data": Command("veridical.cli.data", "list the data sets: which are available, and where they lie"),
}
