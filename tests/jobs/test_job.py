"""Ids of jobs, what can be a job, and whose code runs."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest

from veridical.jobs import Job
from veridical.jobs.job import load_function
from veridical.runtime.errors import UsageError

NAME = "job_functions:echo"


def test_the_id_is_the_hash_of_function_and_values() -> None:
    text = '{"function":"job_functions:echo","values":{"a":[1,2.5],"b":{"c":null,"d":"\\u00e9"}}}'
    job = Job(NAME, {"b": {"d": "é", "c": None}, "a": (1, 2.5)})
    assert job.id == hashlib.sha256(text.encode()).hexdigest()[:24]


def test_only_function_and_values_make_the_id() -> None:
    job = Job(NAME, {"x": 1})
    assert job.id == Job(NAME, {"x": 1}, {"data": "/somewhere"}, "label", 3.0).id
    others = [
        Job(NAME, {"x": 2}),
        Job(NAME, {"y": 1}),
        Job(NAME, {"x": "1"}),
        Job("job_functions:fail", {"x": 1}),
    ]
    assert len({job.id, *(other.id for other in others)}) == 5


def test_a_job_does_not_change_with_the_values_it_was_made_of() -> None:
    values: dict[str, Any] = {"levels": [0.1]}
    job = Job(NAME, values)
    before = job.id
    values["levels"].append(0.2)
    assert job.values == {"levels": [0.1]}
    assert Job(**job.record()) == job
    assert Job(**job.record()).id == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.cost = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"function": "no colon"}, "function"),
        ({"function": "a.b:c.d"}, "function"),
        ({"values": {"a": [1.0, float("nan")]}}, r"values\.a\[1\]"),
        ({"values": {"a": {"b": float("inf")}}}, r"values\.a\.b"),
        ({"values": {"a": object()}}, r"values\.a"),
        ({"values": {1: 2}}, "values"),
        ({"where": {"data": 3}}, r"where\.data"),
        ({"cost": -1.0}, "cost"),
        ({"cost": float("nan")}, "cost"),
    ],
)
def test_what_cannot_be_a_job_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Job(**({"function": NAME, "values": {}} | change))


def test_paths_become_text() -> None:
    assert Job(NAME, {}, {"data": Path("/a/b")}).where == {"data": "/a/b"}  # type: ignore[dict-item]


def test_foreign_code_needs_trust() -> None:
    with pytest.raises(UsageError, match="trust"):
        load_function(NAME)
    assert load_function(NAME, trust_code=True).__name__ == "echo"


@pytest.mark.parametrize(
    "name",
    [
        "veridical.jobs.store:Path",  # imported there, not made there
        "veridical.jobs.store:MARK",
        "veridical.jobs.store:nothing",
        "veridical.jobs.nowhere:Store",
    ],
)
def test_our_own_modules_give_only_what_they_define(name: str) -> None:
    with pytest.raises(UsageError, match="function"):
        load_function(name)
    assert load_function("veridical.jobs.run:run_jobs").__name__ == "run_jobs"
