"""The exceptions and the wording they share."""

import numpy as np
import pytest

from veridical.runtime.errors import DataError, RunError, UsageError, VeridicalError, argument_error


def test_the_message_names_argument_expectation_value_and_remedy() -> None:
    error = argument_error("radius", -1.0, "a number above 0", "Give it in input units.")
    assert isinstance(error, ValueError)
    assert all(issubclass(kind, VeridicalError) for kind in (UsageError, DataError, RunError))
    assert str(error) == "radius: expected a number above 0, but got -1.0. Give it in input units."


def test_a_tensor_is_told_by_shape_and_dtype_not_by_its_numbers() -> None:
    message = str(argument_error("inputs", np.zeros((2, 3), dtype=np.float32), "four axes"))
    assert message == "inputs: expected four axes, but got a ndarray of shape (2, 3) and dtype float32."


@pytest.mark.parametrize("given", ["x" * 10_000, "line\n" * 50])
def test_a_long_value_stays_one_short_line(given: str) -> None:
    message = str(argument_error("name", given, "a short name"))
    assert "\n" not in message
    assert len(message) < 300
