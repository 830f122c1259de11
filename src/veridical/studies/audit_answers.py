"""What an audit measured -> answers with intervals, flags, stability over radii, failures, a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from veridical.faithfulness.evidence import ORDERED, gap, summarise_evidence
from veridical.metrics.intervals import SHARE, mean_interval, proportion_interval
from veridical.metrics.rank import spearman
from veridical.report import Interval
from veridical.report.formats import radius_text
from veridical.report.table import write_number
from veridical.runtime.files import Arrays
from veridical.studies.audit_page import COMPLETE, CONTROL, QUERIES, QUESTIONS, SAME, judge
from veridical.studies.maps import first_of_each_class
from veridical.studies.study import StudyResult

if TYPE_CHECKING:
    from veridical.studies.audit import Audit

Values = NDArray[np.float64]

# Answers from the least favourable on.
_FAVOUR = {"not measured": 0, "fails": 1, "undecided": 2, "holds": 3}
# Axioms: what is measured of each map, and the residual below which it counts as held.
_AXIOMS = (
    ("completeness", "complete", COMPLETE),
    ("sensitivity", "sensitive", COMPLETE),
    ("invariance", "invariant", SAME),
)
# What is kept of an attack at each radius.
_AT_RADII = ("topk_intersection", "windowed_topk_intersection", "kendall_tau", "kendall_tau_nonzero")
# From this share of top pixels on that an attack leaves, it moved nothing.
_STILL = 0.9
# Images that are named as the worst of an explanation.
_WORST = 5


@dataclass
class Done:
    """What there is: arrays of the audit's own steps by attribution, and the parts that are finished."""

    own: Mapping[str, Arrays]
    tuned: Mapping[str, Arrays]
    parts: Mapping[str, StudyResult]
    predicted: Mapping[str, Any] | None = None
    fine_tuned: Mapping[str, Any] | None = None


class Answers:
    """Every answer of an audit, from what is there.

    values: by question and attribution, what each examined image contributes, float64 (N,), NaN for none.
    score: how well all maps of an image are borne out, lower is worse, (N,). shown: the images of the page.
    """

    def __init__(self, audit: Audit, done: Done) -> None:
        self.audit, self.done = audit, done
        self.values: dict[tuple[str, str | None], Values] = {}
        self._answers: dict[tuple[str, str | None], dict[str, Any]] = {}
        self._of_model()
        for name in done.own:
            self._of_map(name)
        for name in done.tuned:
            self._of_tuned(name)
        for name in audit.methods:
            self._of_parts(name)
        for question in QUESTIONS.values():
            names: list[str | None] = [*audit.methods] if question.each else [None]
            for one in names:
                if (question.name, one) not in self._answers:
                    self._answer(question.name, one, None)
        gaps = [self._evidence(name) for name in done.own if name != CONTROL]
        self.score: Values = np.mean(gaps, axis=0) if gaps else np.zeros(audit.examples)
        labels = audit.data.test.labels[: audit.examples]
        self.shown = gallery_order(labels, self.score, audit.options.gallery)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the results."""
        order = {name: place for place, name in enumerate(QUESTIONS)}
        answers = sorted(self._answers.values(), key=lambda one: order[one["question"]])
        return {
            "answers": answers,
            "thresholds": {name: self._threshold(name) for name in QUESTIONS},
            "flags": list(self._flags()),
            "fine_tuned": self.done.fine_tuned,
            "evidence": {
                name: summarise_evidence({**self.done.tuned.get(name, {}), **arrays})
                for name, arrays in self.done.own.items()
            },
            "stability": {name: self._over_radii(name) for name in self.audit.methods if self._attack(name)},
            "disagreement": self._disagreement(),
            "classes": self._by_class(),
            "worst": self._worst(),
            "images": self._images(),
            "before": self._before(answers),
        }

    # Answers

    def _threshold(self, question: str) -> float:
        return self.audit.options.thresholds.get(question, QUESTIONS[question].threshold)

    def _answer(self, question: str, name: str | None, value: Mapping[str, Any] | None) -> None:
        """Keep one answer: the value against the threshold, by its interval alone."""
        threshold = self._threshold(question)
        self._answers[question, name] = {
            "question": question,
            "attribution": name,
            "verdict": judge(Interval.read(value), threshold),
            "value": None if value is None else dict(value),
            "threshold": threshold,
        }

    def _mean(self, question: str, name: str | None, values: Values, bounds: Any = (-np.inf, np.inf)) -> None:
        self.values[question, name] = _padded(values, self.audit.examples)
        self._answer(question, name, _mean(values, bounds))

    def _share(self, question: str, name: str | None, values: Values) -> None:
        """An answer from ones and zeros, NaN for neither."""
        self.values[question, name] = _padded(values, self.audit.examples)
        known = values[np.isfinite(values)]
        value = proportion_interval(int(known.sum()), len(known)) if len(known) else None
        self._answer(question, name, value)

    def _of_model(self) -> None:
        predicted = self.done.predicted
        if predicted is None:
            return
        self._answer("accuracy", None, predicted["accuracy"])
        if "pgd" in predicted:
            self._share("accuracy-under-attack", None, predicted["pgd"].astype(np.float64))
        else:
            self.audit.left_out["attack on predictions"] = predicted["refused"]

    def _of_map(self, name: str) -> None:
        """Axioms, evidence and place of one attribution's maps."""
        arrays = self.done.own[name]
        for question, key, limit in _AXIOMS:
            held = (arrays[key] < limit).astype(np.float64)
            held[np.isnan(arrays[key])] = np.nan
            self._share(question, name, held)
        self._mean("single-deletion", name, arrays["single"])
        for question in ORDERED:
            self._beyond(question, name, self.done.own)
        if "inside/mass" in arrays:
            mass, area = arrays["inside/mass"], arrays["inside/area"]
            self._mean("localisation", name, mass - area, (-1.0, 1.0))
            self._mean("leakage", name, mass, SHARE)

    def _of_tuned(self, name: str) -> None:
        self._mean("in-domain-deletion", name, self.done.tuned[name]["single"])
        self._beyond("in-domain-removal", name, self.done.tuned)

    def _beyond(self, question: str, name: str, arrays: Mapping[str, Arrays]) -> None:
        """A gap beyond that of the mean map and of the random map: the less favourable of the two counts."""
        mine = gap(arrays[name], question)
        others = [gap(arrays[name], question, "average")]
        if name != CONTROL:  # which has another random order to be above
            others.append(gap(arrays[CONTROL], question))
        beyond = []
        for other in others:
            self._mean(question, name, mine - other)
            beyond.append((self._answers[question, name], self.values[question, name]))
        chosen = min(beyond, key=lambda one: (_FAVOUR[one[0]["verdict"]], one[0]["value"]["value"] or 0.0))
        self._answers[question, name], self.values[question, name] = chosen

    def _of_parts(self, name: str) -> None:
        """What attacks, the check of dependence on the model, and retraining say of one attribution."""
        kept = [self._kept(result, self.audit.radius) for result in self._attacks(name)]
        if kept:
            self._mean("stability", name, np.min(kept, axis=0), SHARE)
        if (noise := self.part("noise", name)) is not None:
            self._mean("stability-to-noise", name, self._kept(noise, self.audit.radius), SHARE)
        if (sanity := self.part("sanity", name)) is not None:
            found = sanity.results["attributions"][name]
            self._answer("depends-on-model", name, _gone(found["cascading"]))
            self._answer("complexity-rises", name, found["efficient"]["rise"])
            if "smooth" in found:
                self._answer("depends-smoothed", name, _gone(found["smooth"]))
        if (diffroar := self.part("diffroar", name)) is not None:
            self._of_diffroar(name, diffroar)

    def _of_diffroar(self, name: str, result: StudyResult) -> None:
        """The least favourable level's answer; what masks alone or a baseline do as well is undecided."""
        found = []
        for level in result.results["verdicts"]:
            value = {end: level[end] for end in ("value", "low", "high")}
            self._answer("diffroar", name, {**value, "n": result.results["examples"]})
            one = self._answers["diffroar", name]
            if one["verdict"] == "holds" and level["as_good"]:
                one["verdict"] = "undecided"
            found.append(one)
        self._answers["diffroar", name] = min(
            found, key=lambda one: (_FAVOUR[one["verdict"]], one["value"]["value"])
        )

    # Parts

    def part(self, kind: str, name: str) -> StudyResult | None:
        """The finished part of a kind for an attribution."""
        return self.done.parts.get(self.audit.part_name(kind, name))

    def _attack(self, name: str) -> StudyResult | None:
        return self.part("attack", name)

    def _attacks(self, name: str) -> list[StudyResult]:
        """The finished attacks on one attribution, that at all radii first."""
        kinds = ["attack", *(f"attack-{other}" for other in self.audit.extent.protocols[1:])]
        return [result for kind in kinds if (result := self.part(kind, name)) is not None]

    def _kept(self, attack: StudyResult, radius: float) -> Values:
        """The share of top pixels that an attack left at a radius, NaN for images read wrong, (n,)."""
        arrays, right = attack.arrays, attack.arrays["predicted"] == attack.arrays["label"]
        place = "" if attack.results["radius"] == radius else f"radius-{radius:.6g}/"
        kept: Values = arrays[f"{place}topk_intersection"].astype(np.float64)
        return np.where(right, kept, np.nan)

    def _over_radii(self, name: str) -> dict[str, Any]:
        """What attacks and noise leave at every radius, and the least one at which half the top is lost."""
        rows = []
        noise = self.part("noise", name)
        for attack in self._attacks(name):
            for point in _points(attack):
                row = {"protocol": attack.config["protocol"]["name"], "radius": point["radius"]}
                row |= {key: point[key] for key in _AT_RADII}
                same = (
                    [] if noise is None else [one for one in _points(noise) if one["radius"] == row["radius"]]
                )
                row["noise"] = same[0]["topk_intersection"] if same else None
                rows.append(row)
        curve = [
            (one["radius"], one["topk_intersection"])
            for one in rows
            if one["protocol"] == rows[0]["protocol"]
        ]
        # Where less is kept, half is lost at a smaller radius: the ends of the interval change places.
        ends = {"value": "value", "low": "low", "high": "high"}
        lost = {end: _crossing([(r, kept[of]) for r, kept in curve]) for end, of in ends.items()}
        return {"radii": rows, "half_lost": {**lost, "n": curve[0][1]["n"]}}

    # Can it be trusted?

    def _flags(self) -> Iterator[dict[str, Any]]:
        """What would make these numbers look better than they are; raised is None where a look is due."""
        audit, done = self.audit, self.done
        for remark in audit.remarks:
            if remark.severity != "note":
                yield _flag(remark.name, True if remark.severity == "problem" else None, remark.text)
        labels = audit.data.test.labels[: audit.examples]
        if len(labels.unique()) < min(2, audit.data.num_classes):
            text = f"All {audit.examples} examined images are of one class: take more, or shuffle the data."
            yield _flag("one class", True, text)
        if done.predicted is not None and "said" in done.predicted:  # jobs of an older version have none
            said = done.predicted["said"]
            yield _order_flag(said, audit.data.test.labels[: len(said)].numpy(), audit.data.num_classes)
        for name in audit.attackable:
            yield from self._attack_flags(name)
        if not audit.attackable:
            text = "No explanation here can be climbed, so none was attacked: only random noise moved them."
            yield _flag("no attack on explanations", None, text)
        if done.predicted is not None and "pgd" in done.predicted:
            found = int((done.predicted["pgd"] & ~done.predicted["search"]).sum())
            text = (
                f"Random search over signs, {QUERIES} queries an image and no gradient, misleads the "
                f"model on {found} of {len(done.predicted['right'])} images on which projected gradient "
                "descent does not. Any such image says that gradients are masked."
            )
            yield _flag("black-box attack stronger", found > 0, text)
        for name, arrays in done.own.items():
            empty = int((arrays["zero"] == 1).sum())
            if empty:
                text = f"{empty} of {len(arrays['zero'])} maps of {name} are zero everywhere."
                yield _flag("maps of zeros", True, text)

    def _attack_flags(self, name: str) -> Iterator[dict[str, Any]]:
        """Whether the attack on one explanation did what an attack has to."""
        attack, radius, planted = self._attack(name), self.audit.radius, self.audit.planted
        if attack is None:
            return
        kept = self._kept(attack, radius)
        if not np.isfinite(kept).any():
            text = f"{name}: the model reads none of the images right, so no explanation was attacked."
            yield _flag("nothing attacked", True, text)
            return
        if (noise := self.part("noise", name)) is not None:
            # Image by image: the same ones in both.
            moved = self._kept(noise, radius)
            text = (
                f"{name}: the attack leaves {_percent(kept)} of the top pixels, random noise of the same "
                f"size {_percent(moved)}. An attack has to do clearly more, unless nothing moves these maps."
            )
            raised = None if _is_still(kept) else _is_no_more(_mean(moved - kept))
            yield _flag("noise as strong as the attack", raised, text)
        yield _steps_flag(name, attack)
        if attack.results["twin_rewrites"] == 0:
            text = (
                f"{name}: no ReLU or the like was smoothed in the attack. For a model of smooth activations "
                "that is right; for one of ReLUs that are hidden, the attack saw second derivatives of 0."
            )
            yield _flag("twin without effect", None, text)
        if planted > radius:
            larger = self._kept(attack, planted)
            text = (
                f"{name}: in a ball of radius {radius_text(planted)} the attack leaves {_percent(larger)} of "
                f"the top pixels, in its own {_percent(kept)}. It has to move maps more there, unless "
                "nothing was left before, or nothing moves these maps."
            )
            # Two unrelated maps share k of D pixels by chance: near that, nothing was left to move.
            chance = attack.config["protocol"]["k"] / attack.arrays["saliency"][0].size
            nothing = float(np.nanmean(kept)) < 2 * chance
            raised = None if _is_still(larger) else _is_no_more(_mean(kept - larger))
            yield _flag("planted check", raised and not nothing, text)

    # Agreement, failures, before and after

    def _disagreement(self) -> dict[str, dict[str, Any]]:
        """Spearman's correlation of the saliency of every two attributions, mean over images."""
        own = self.done.own
        flat = {n: torch.from_numpy(a["saliency"].astype(np.float64)).flatten(1) for n, a in own.items()}
        return {
            one: {other: mean_interval(spearman(a, b), undefined="exclude") for other, b in flat.items()}
            for one, a in flat.items()
        }

    def _evidence(self, name: str) -> Values:
        """How far the three curves bear out each image's map, mean of their gaps, (N,)."""
        gaps = [gap(self.done.own[name], one) for one in ORDERED if one != "adversarial"]
        found: Values = np.mean(gaps, axis=0)
        return found

    def _per_image(self, name: str) -> dict[str, Values]:
        """What is told of each image's map by name, (N,), NaN where there is nothing."""
        nothing = np.full(self.audit.examples, np.nan)
        found = {"evidence": self._evidence(name)}
        for key, question in (("kept", "stability"), ("inside", "leakage")):
            found[key] = self.values.get((question, name), nothing)
        return found

    def _by_class(self) -> dict[str, Any]:
        """Images, right predictions, and what the maps of each class come to, of the examined images."""
        if not self.done.own:
            return {}
        first = next(iter(self.done.own.values()))
        right = first["seen"] == first["label"]
        table = {}
        for label in np.unique(first["label"]).tolist():
            here = first["label"] == label
            table[self.audit.data.classes[label]] = {
                "images": int(here.sum()),
                "right": int(right[here].sum()),
                "maps": {
                    name: {key: _mean(values[here]) for key, values in self._per_image(name).items()}
                    for name in self.done.own
                    if name != CONTROL
                },
            }
        return table

    def _worst(self) -> dict[str, Any]:
        """Of each explanation the images whose maps are borne out least."""
        return {
            name: [
                self._image(place, [name])
                for place in np.argsort(self._evidence(name), kind="stable")[:_WORST]
            ]
            for name in self.done.own
            if name != CONTROL
        }

    def _images(self) -> list[dict[str, Any]]:
        """What is told of the images that the page shows."""
        names = [name for name in self.done.own if name != CONTROL]
        return [self._image(place, names) for place in self.shown] if self.done.own else []

    def _image(self, place: int, names: Sequence[str]) -> dict[str, Any]:
        first, classes = next(iter(self.done.own.values())), self.audit.data.classes
        return {
            "index": int(place),
            "label": classes[int(first["label"][place])],
            "predicted": classes[int(first["seen"][place])],
            "score": float(self.score[place]),
            "maps": {
                name: {key: _or_none(one[place]) for key, one in self._per_image(name).items()}
                for name in names
            },
        }

    def _before(self, answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
        """Every answer beside the earlier audit's, with the difference where the images are the same."""
        earlier = self.audit.before
        if earlier is None:
            return None
        known = {(one["question"], one["attribution"]): one for one in earlier.results["answers"]}
        same = earlier.config["data"] == self.audit.data.describe()
        rows = []
        for one in answers:
            key = (one["question"], one["attribution"])
            if key not in known:
                continue
            now, then = self.values.get(key), earlier.arrays.get(f"values/{key[0]}/{key[1] or ''}")
            difference = None
            if same and now is not None and then is not None and len(now) == len(then):
                difference = _mean(now - then)
            rows.append(
                {
                    "question": one["question"],
                    "attribution": one["attribution"],
                    "before": known[key]["value"],
                    "verdict_before": known[key]["verdict"],
                    "after": one["value"],
                    "verdict": one["verdict"],
                    "difference": difference,
                }
            )
        return rows


def gallery_order(labels: torch.Tensor, score: Values, count: int) -> list[int]:
    """The images that a page shows: half the first of each class, half those of the lowest score."""
    first = first_of_each_class(labels, -(-count // 2))
    others = [place for place in np.argsort(score, kind="stable").tolist() if place not in first]
    return sorted([*first, *others[: max(0, count - len(first))]])


def _is_no_more(more: Mapping[str, Any]) -> bool | None:
    """Whether what should be more is not: false for clearly more, None where there are too few images."""
    interval = Interval.read(more)
    if interval.sign > 0:
        return False
    return None if (interval.value or 0.0) > 0 else True


def _is_still(kept: Values) -> bool:
    """Whether nearly all was left: nothing moves these maps, or the attack is blind, and a look is due."""
    return float(np.nanmean(kept)) > _STILL


def _mean(values: Values, bounds: tuple[float, float] = (-np.inf, np.inf)) -> dict[str, Any]:
    return {**mean_interval(torch.from_numpy(values), undefined="exclude", bounds=bounds)}


def _padded(values: Values, length: int) -> Values:
    """As many values as there are examined images, NaN for those that were not attacked."""
    whole = np.full(length, np.nan)
    whole[: len(values)] = values
    return whole


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _percent(values: Values) -> str:
    return write_number(float(np.nanmean(values)), "share")


def _points(attack: StudyResult) -> list[Mapping[str, Any]]:
    """The measures of an attack at each radius, in rising order."""
    points: list[Mapping[str, Any]] = attack.results.get("curve", [attack.results])
    return points


def _crossing(curve: Sequence[tuple[float, float | None]]) -> float | None:
    """The radius at which a curve from 1 at radius 0 first falls to a half, linear between, or None."""
    before = (0.0, 1.0)
    for radius, kept in curve:
        if kept is None:
            return None
        if kept <= 0.5:
            share = (before[1] - 0.5) / (before[1] - kept) if before[1] > kept else 0.0
            return before[0] + share * (radius - before[0])
        before = (radius, kept)
    return None


def _flag(name: str, raised: bool | None, text: str) -> dict[str, Any]:
    return {"name": name, "raised": raised, "text": text}


def _order_flag(said: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> dict[str, Any]:
    """Whether the model's logits seem to be in another order than the classes of the data.

    Every other image says which exchange of classes suits best; the rest are read with it.
    """
    counts = np.zeros((classes, classes))
    np.add.at(counts, (said[::2], labels[::2]), 1)
    _, renamed = linear_sum_assignment(counts, maximize=True)
    rest, given = labels[1::2], said[1::2]
    exchanged, plain = (
        Interval.read(proportion_interval(int((one == rest).sum()), len(rest)))
        for one in (renamed[given], given)
    )
    shares = [f"{100 * (one.value or 0.0):.0f}%" for one in (exchanged, plain)]
    text = (
        f"With the class names exchanged as suits half of the images best, the model reads {shares[0]} of "
        f"the other half right, as the names stand {shares[1]}. Where the exchange helps, the data's classes "
        "are in another order than the model's logits: those of folders are in the order of their names."
    )
    return _flag("classes in another order", exchanged.against(plain) == "higher", text)


def _steps_flag(name: str, attack: StudyResult) -> dict[str, Any]:
    """Whether more iterations would move maps further: whether the last tenth still did."""
    trace = attack.arrays["trace"][attack.arrays["predicted"] == attack.arrays["label"]]
    known = trace[np.isfinite(trace).all(axis=1)]
    if not len(known):
        return _flag("too few steps", None, f"{name}: the course of the attack is not known.")
    means = known.mean(axis=0)
    before, last = float(means[int(0.9 * (len(means) - 1))]), float(means[-1])
    text = (
        f"{name}: Kendall's tau to the map before the attack is {last:.3f} after the last iteration and "
        f"{before:.3f} a tenth of them earlier. If it still falls, more --steps would find stronger changes."
    )
    return _flag("too few steps", before - last > 0.01, text)


def _gone(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is gone of a map when layers are random, at the state and measure of which most is left.

    One minus what remains, so that the interval lies where the verdict of the check does.
    """
    left = [
        measure
        for state in states[-2:]
        for measure in state["remaining"].values()
        if measure["value"] is not None
    ]
    if not left:
        return {"value": None, "low": None, "high": None, "n": 0}
    worst = max(left, key=lambda one: float(one["value"]))
    ends = {"value": "value", "low": "high", "high": "low"}
    # Of maps that resemble each other anyway less than nothing can remain: then all is gone.
    return {
        **{
            end: None if worst[other] is None else min(1.0, 1.0 - worst[other]) for end, other in ends.items()
        },
        "n": worst["n"],
    }
