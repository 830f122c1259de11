"""The table of commands, kept free of imports so that `veridical --help` answers at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Command:
    """One command: what does it, in one line what that is, and whether torchrun may start it several times.

    target: "module:Class" of a study, whose `Options` and docstring become options and help; or
    "module:function" of one that takes `options`, which are annotated, and returns the exit code.
    """

    target: str
    summary: str
    is_shared: bool = False

    def load(self) -> Any:
        """Import the study or the function."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)

    def options(self) -> Any:
        """The dataclass of its options."""
        return options_of(self.load())


def options_of(target: Any) -> Any:
    """The dataclass of the options of what a command loads."""
    return target.Options if hasattr(target, "Options") else get_type_hints(target)["options"]


_TABLE = (
    # Train and examine.
    ("train", "cli.actions:train", "train a classifier, plainly or so that explanations hold still"),
    ("audit", "studies.audit:Audit", "answer whether a model's explanations may be shown"),
    ("attack", "studies.attack:Attack", "attack the explanations of a model, measure what holds"),
    ("compare", "cli.actions:compare", "put finished attacks side by side on one page"),
    (
        "diffroar",
        "studies.diffroar:DiffRoar",
        "measure by retraining whether an attribution ranks informative pixels first",
    ),
    ("diffroar-report", "cli.actions:report", "overlay curves of finished diffroars on a page"),
    ("sanity", "studies.sanity:Sanity", "check whether explanations care what a network has learnt"),
    ("certify", "studies.certify:Certify", "certify how far the top of explanations holds, beside an attack"),
    # Studies where the truth is known.
    ("leakage", "studies.leakage:Leakage", "measure what explanations mark in a block that tells nothing"),
    ("leakage-levels", "studies.leakage:compare_levels", "tabulate finished leakage studies at every level"),
    ("shortcut", "studies.shortcut:Shortcut", "measure how far models rely on a planted shortcut"),
    ("alignment", "studies.alignment:Alignment", "measure how much of the maps lies where people look"),
    ("one-layer", "studies.one_layer:OneLayer", "check that IG-NORM is adversarial training for one layer"),
    ("block-margin", "studies.block_margin:BlockMargin", "check what gradients of max-margin networks mark"),
    # Several of these, beside what was published.
    ("reproduce", "studies.reproduce:Reproduce", "regenerate the papers' tables and figures"),
    ("demo", "studies.demo:Demo", "train, attack and show a natural and two robust models on digits"),
    # Studies from outside, whose options are known when the first argument is.
    ("run", "studies.study:load_study", "run a study of your own, module:Study (needs --trust-code)"),
    # Data sets.
    (
        "make-block-mnist",
        "studies.generated:make_block_mnist",
        "write images of blocks of which one carries the label",
    ),
    ("make-shortcut", "studies.generated:make_shortcut", "write images with a planted shortcut"),
    ("schema", "cli.actions:show_schema", "print the JSON Schema of a command's result.json"),
    ("data", "cli.actions:list_data", "list the data sets: which are available, and where they lie"),
)

COMMANDS: Mapping[str, Command] = {
    name: Command(f"veridical.{target}", summary, is_shared=name == "train")
    for name, target, summary in _TABLE
}
