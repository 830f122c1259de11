"""What a leakage study found and how it was measured, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.report.formats import Interval, level_text
from veridical.report.table import write_cell
from veridical.studies.finished import Finished
from veridical.studies.leakage_plan import TITLES
from veridical.studies.training import undertrained

HEADLINE_LEVEL = 0.05

TOLD = (
    "weight",
    "beta",
    "beta_from",
    "radius_warm_up",
    "inner_steps",
    "inner_score",
    "nodes",
    "steps",
    "batch_size",
    "learning_rate",
)
"""What the page says of each training."""

PAIRS = [
    (
        "Null share through other instances: the share of |attribution| in the null block on BlockMNIST "
        "minus that on BlockMNIST-Top, of the same digits with the same null content, in percentage points. "
        "The two trainings differ in whether other instances have their digit in that block; in nothing else "
        "but what follows from it, as that each place sees fewer digits. It takes several seeds: which block "
        "is null differs, too, and initial weights alone mark one more than the other."
    ),
    (
        "Left: |attribution| in the block that the digit moves to, before it stands there, as a share of the "
        "sum before and after; over the digit's own pixels, and over the whole block. 0% if the block is "
        "marked only with the digit in it, 50% if it is marked as strongly without."
    ),
    (
        "Cosine: of the signed maps in that block before and after the move; beside it the cosines with the "
        "maps of another image of the same class, and of one of another class, their digits there too. What "
        "the first has more than the second is a picture of the very digit that is elsewhere; what the "
        "second has more than the third is of its class alone, as the map of a linear model, one for all "
        "images."
    ),
    (
        "Null mass at telling places: of the |attribution| in the null block, the share on the quarter of a "
        "block's pixels that tells the classes apart where a digit stands; 25% is chance."
    ),
]

SURE = [
    (
        "A model that is sure of everything has hardly any loss left, and training in a ball then hardly "
        "asks for less attribution in the null block. Margin: by how much the predicted logit is above the "
        "next. Sure: predictions of at least 99.9%. Attribution: mean size of a coordinate in either block; "
        "in logits per input unit for the input gradient."
    )
]

MEANING = [
    (
        "Null share: of the k% of coordinates with the greatest |attribution|, the share that lies in the "
        "null block (Shah, Jain, Netrapalli, NeurIPS 2021). Equal values, such as exact zeros, are ordered "
        "at random for each image, so that zeros say nothing; how many there are is in the table. Null mass: "
        "the share of the sum of |attribution|. Strongest in null: how often the greatest value lies there."
    ),
    (
        "Accuracy is that on all test images; under attack, that on the first of them after 20 steps of "
        "projected gradient descent in each ball. Explained is the class that the model predicts."
    ),
]


def headlines(study: Finished) -> list[str]:
    """What was found: a sentence for each attribution and training, from the intervals alone."""
    levels = study.config["levels"]
    level = HEADLINE_LEVEL if HEADLINE_LEVEL in levels else levels[0]
    place = levels.index(level)
    found = []
    for name in study.config["attributions"]:
        for title, by_position in study.results["models"].items():
            shares = [
                f"{write_cell(model['maps'][name]['null']['topk'][place], 'share')} on {TITLES[position]}"
                for position, model in by_position.items()
            ]
            sentence = f"{title}: of the top {level_text(level)} of {name}, {' and '.join(shares)} "
            sentence += "lie in the null block."
            warning = _unlearnt(study, by_position)
            leakage = study.results["leakage"].get(name, {}).get(title)
            if leakage is not None and not warning:
                sentence += _through_others(leakage)
            found.append(sentence + warning)
    return found


def _unlearnt(study: Finished, by_position: Mapping[str, Any]) -> str:
    """A warning where a training has hardly come away from guessing: its maps then mean nothing."""
    told = ""
    for position, model in by_position.items():
        warning = undertrained(model["accuracy"], study.config["data"][position]["num_classes"])
        told += f" On {TITLES[position]} it {warning}." if warning else ""
    return told


def _through_others(leakage: Mapping[str, Any]) -> str:
    """What the digits of other instances have to do with it, which one training of each kind cannot show."""
    if leakage["mass"]["seeds"]["n"] < 2:
        return " Whether digits of other instances add to it, several seeds would show."
    if Interval.read(leakage["mass"]).sign > 0:
        added = write_cell(leakage["mass"], "points")
        return f" Digits of other instances there add {added} points to its mass."
    return " That digits of other instances add to its mass is not shown."


def facts(study: Finished) -> dict[str, str]:
    """How it was measured, as names and values."""
    config, environment = study.config, study.document["environment"]
    data = next(iter(config["data"].values()))
    options = data["options"]
    found = {
        "Images": f"{options['source']}, {data['num_classes']} classes, {data['train']:,} for training and "
        f"{data['test']:,} for testing; null block: {options['null']}, noise {options['noise']:g}",
        "Explained, attacked": f"the first {config['explained']:,} and {config['attacked']:,} test images",
        "Seeds": ", ".join(map(str, config["seeds"])),
        "Ties": f"{config['ties']}, by seed {config['seed']}",
        "Version": f"veridical {environment['veridical']}, torch {environment['torch']}",
    }
    for title, by_position in config["models"].items():
        fields = next(iter(by_position.values()))
        told = ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for key in TOLD
            if (value := fields.get(key)) is not None
        )
        found[title] = f"{fields['model']}, {told}"
    for name, record in config["attributions"].items():
        found[name] = ", ".join(f"{key} {value}" for key, value in record.items())
    return found
