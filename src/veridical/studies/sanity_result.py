"""From the comparisons that a sanity check's jobs left to its results: what is alike, what remains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from veridical.faithfulness.invariance import (
    LEARNT_BY_HEART,
    InvarianceVerdict,
    combine_verdicts,
    count_undefined,
    draws_interval,
    is_nearer,
    judge_remaining,
    remaining_similarity,
)
from veridical.jobs import Job, Store
from veridical.metrics.intervals import Interval, mean_interval, proportion_interval
from veridical.metrics.registry import measures
from veridical.studies.sanity_job import ARRAYS
from veridical.studies.sanity_plan import CONTROL
from veridical.studies.sanity_words import TRAINING_WORDS

MEASURES = measures("sanity")


class States:
    """What an `explain` job left: similarities by measure (states, N), names, agreement and pictures."""

    def __init__(self, names: Sequence[str], arrays: Mapping[str, Any]) -> None:
        self.names = list(names)
        self.similarity = {name: torch.from_numpy(arrays[name]) for name in MEASURES}
        self.agrees: Tensor = torch.from_numpy(arrays["agrees"])
        self.pictures = arrays["pictures"]

    @classmethod
    def read(cls, store: Store, job: Job) -> States:
        """What the job left in the store."""
        result = store.result(job)
        assert result is not None
        return cls(result["states"], store.arrays(job, ARRAYS))


class Compared:
    """Everything that one attribution's maps were compared with."""

    def __init__(
        self,
        unrelated: States,
        weights: Mapping[str, Sequence[States]],
        trained: Mapping[str, States],
    ) -> None:
        self.unrelated, self.weights, self.trained = unrelated, weights, trained

    def reference(self, measure: str) -> Tensor:
        """Similarity to the map of another image (N,)."""
        return self.unrelated.similarity[measure][self.unrelated.names.index("other image")]

    def state(self, draws: Sequence[States], place: int) -> dict[str, Any]:
        """One state over the draws of its weights, as the result has it."""
        similarity = {m: torch.stack([draw.similarity[m][place] for draw in draws]) for m in MEASURES}
        agrees = torch.stack([draw.agrees[place] for draw in draws])
        return {
            "agreement": _share(agrees),
            "similarity": {m: draws_interval(values) for m, values in similarity.items()},
            "remaining": {
                m: remaining_similarity(values, self.reference(m), MEASURES[m].identical)
                for m, values in similarity.items()
            },
            "undefined": {m: count_undefined(values) for m, values in similarity.items()},
        }


def _share(agrees: Tensor) -> Interval:
    if len(agrees) == 1:
        return proportion_interval(int(agrees.sum()), agrees.shape[1])
    return draws_interval(agrees.double())


def assembled(
    examples: int, found: Mapping[str, Compared], trainings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The results: similarities and verdicts of every attribution, the new trainings, and notes.

    trainings: by kind what its job returned.
    """
    learnt = {
        kind: (result["training_accuracy"]["value"] or 0.0) >= LEARNT_BY_HEART
        for kind, result in trainings.items()
    }
    results: dict[str, Any] = {
        "examples": examples,
        "trainings": {kind: dict(result) for kind, result in trainings.items()},
        "attributions": {name: _attribution(one, learnt) for name, one in found.items()},
    }
    return results | {"notes": _notes(results, learnt)}


def _attribution(compared: Compared, learnt: Mapping[str, bool]) -> dict[str, Any]:
    """One attribution's similarities, and its verdicts by weights, labels and data."""
    unrelated = {
        name: {
            m: mean_interval(compared.unrelated.similarity[m][place], undefined="exclude") for m in MEASURES
        }
        for place, name in enumerate(compared.unrelated.names)
    }
    entry: dict[str, Any] = {"unrelated": unrelated, "verdicts": {}}
    for order, draws in compared.weights.items():
        entry[order] = [
            {
                "stage": name,
                "randomised": place + 1 if order == "cascading" else 1,
                **compared.state(draws, place),
            }
            for place, name in enumerate(draws[0].names)
        ]
    if "cascading" in compared.weights:
        entry["verdicts"]["weights"] = _by_weights(entry["cascading"])
    entry["trainings"] = {kind: compared.state([one], 0) for kind, one in compared.trained.items()}
    for kind in compared.trained:
        if kind != CONTROL:
            entry["verdicts"][kind] = _by_training(compared, kind, entry["trainings"][kind], learnt[kind])
    return entry


def _by_weights(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict of the cascade: with all stages fresh but the lowest one, and with that too."""
    decisive = states[-2:]
    verdicts = {m: judge_remaining([state["remaining"][m] for state in decisive]) for m in MEASURES}
    return {"measures": verdicts, "verdict": combine_verdicts(verdicts, dict.fromkeys(MEASURES, True))}


def _by_training(compared: Compared, kind: str, state: Mapping[str, Any], learnt: bool) -> dict[str, Any]:
    """The verdict of a training on randomised data, where the control shows that it can tell."""
    telling = {
        m: learnt
        and is_nearer(
            compared.trained[CONTROL].similarity[m][0], compared.trained[kind].similarity[m][0], measure.alike
        )
        for m, measure in MEASURES.items()
    }
    verdicts: dict[str, InvarianceVerdict] = {}
    for measure in MEASURES:
        judged = judge_remaining([state["remaining"][measure]])
        verdicts[measure] = "undecided" if judged == "passes" and not telling[measure] else judged
    return {"measures": verdicts, "telling": telling, "verdict": combine_verdicts(verdicts, telling)}


def _notes(results: Mapping[str, Any], learnt: Mapping[str, bool]) -> list[str]:
    notes = [
        f"The training on {TRAINING_WORDS[kind]} got only "
        f"{results['trainings'][kind]['training_accuracy']['value']:.1%} of its own labels right: it needs "
        "more --epochs, fewer --train-examples or another --learning-rate before its maps say something."
        for kind, enough in learnt.items()
        if not enough
    ]
    for name, entry in results["attributions"].items():
        states = [state for order in ("cascading", "independent") for state in entry.get(order, [])]
        missing = sum(state["undefined"]["spearman_signed"] for state in states)
        if missing:
            notes.append(
                f"{name}: {missing:,} rank correlations have no value, since a map was constant; they are "
                "left out."
            )
    return notes
