"""A sanity check's results in words: headlines, the table of verdicts, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.metrics.registry import measures
from veridical.report.formats import DASH, listed, percent

MEASURE_WORDS = {name: measure.label for name, measure in measures("sanity").items()}
TRAINING_WORDS = {"true": "true data", "labels": "permuted labels", "data": "images of noise"}
TEST_WORDS = {"weights": "random weights", "labels": "permuted labels", "data": "images of noise"}

VERDICT_COLUMNS = ("explanation", "network", "verdict", *MEASURE_WORDS.values())


def headlines(results: Mapping[str, Any]) -> list[str]:
    """What was found: one sentence for each attribution and test."""
    return [
        _headline(name, test, judged, entry)
        for name, entry in results["attributions"].items()
        for test, judged in entry["verdicts"].items()
    ]


def _headline(name: str, test: str, judged: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    against = TEST_WORDS[test]
    if judged["verdict"] == "passes":
        return f"{name} passes against {against}: its maps become as unlike as those of unrelated images."
    if judged["verdict"] == "undecided":
        why = "its maps change, and the intervals leave open by how much"
        if "telling" in judged and not any(judged["telling"].values()):
            why = "the control is no nearer, or the new network did not learn its data by heart"
        return f"{name} is undecided against {against}: {why}."
    measures = [m for m, verdict in judged["measures"].items() if verdict == "nearly invariant"]
    left = max(_left(entry, test, measure) for measure in measures)
    by = listed([MEASURE_WORDS[measure] for measure in measures])
    return (
        f"{name} is nearly invariant against {against}, by {by}: up to {percent(left, 0)} of what tells "
        "its maps from those of other images is still there."
    )


def _left(entry: Mapping[str, Any], test: str, measure: str) -> float:
    """The most that remained in a state that the verdict rests on."""
    return max(state["remaining"][measure]["value"] or 0.0 for state in _judged(entry, test).values())


def _judged(entry: Mapping[str, Any], test: str) -> dict[str, Mapping[str, Any]]:
    """The states that the verdict of a test rests on, by what stands in them for the checked network."""
    if test != "weights":
        return {f"trained on {TRAINING_WORDS[test]}": entry["trainings"][test]}
    *before, last = entry["cascading"]
    states = {f"random but {last['stage']}": before[-1]} if before else {}
    return {**states, "all random": last}


def verdict_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """The cells of VERDICT_COLUMNS: for each attribution and state what remained, and the test's verdict."""
    return [
        [name, network, judged["verdict"], *(_remaining(state["remaining"][m]) for m in MEASURE_WORDS)]
        for name, entry in results["attributions"].items()
        for test, judged in entry["verdicts"].items()
        for network, state in _judged(entry, test).items()
    ]


def _remaining(interval: Mapping[str, Any]) -> str:
    if interval["value"] is None:
        return DASH
    if interval["low"] is None:
        return percent(interval["value"], 0)
    low, high = (percent(interval[end], 0) for end in ("low", "high"))
    return f"{percent(interval['value'], 0)} ({low} to {high})"


def meaning(config: Mapping[str, Any]) -> list[str]:
    """Paragraphs on what was measured and how the verdicts come about."""
    above, below = (config["thresholds"][name] for name in ("nearly_invariant_above", "passes_below"))
    quantile = config["similarity"]["picture_quantile"]
    return [
        (
            "Every network explains the same class of an image, so that only the network differs. Similarity "
            "is Spearman's rank correlation of all values of two maps, with their signs (signed ranks) and "
            "by their sizes (ranks of sizes), and the structural similarity (SSIM) of the maps as pictures: "
            "sizes summed over channels, on a scale from zero to the map's own "
            f"{percent(quantile, 1)} quantile."
        ),
        (
            "What remains is (similarity - unrelated) / (1 - unrelated), where unrelated is the similarity "
            "to the map of another image by the same network: 100% is the same map, 0% has no more in common "
            "with it than another image's. The verdict on random weights rests on two states: all layers "
            "random but the one next to the image, and all layers random. Nearly invariant: at one of them "
            f"the 95% interval lies above {percent(above, 0)}. Passes: at both it lies below "
            f"{percent(below, 0)}. One measure is enough to be nearly invariant; all must pass."
        ),
        (
            "A network that was trained on permuted labels or on images of noise has learnt nothing that "
            "carries over. Trainings differ anyway: a measure counts towards passing only where the control, "
            "trained on true data, is clearly nearer to the checked network, and where the training accuracy "
            f"reached {percent(config['thresholds']['learnt_by_heart'], 0)}."
        ),
        (
            "Intervals join two sources: the images, and the draws of fresh weights. They do not cover "
            "another training of the checked network, nor of the new ones."
        ),
    ]
