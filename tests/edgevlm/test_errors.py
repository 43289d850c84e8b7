"""The error tree: one exit code for each class, and optional packages by name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevlm import errors
from edgevlm.errors import CONTROL_CHARACTERS, ContractError, DependencyError, EdgevlmError, printable, require

CLASSES = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, EdgevlmError)]
REFUSALS = [item for item in CLASSES if item is not EdgevlmError]


def test_gives_every_class_an_exit_code_of_its_own() -> None:
    codes = [item.exit_code for item in REFUSALS]
    assert len(set(codes)) == len(codes) > 15
    assert all("exit_code" in vars(item) for item in REFUSALS)


def test_leaves_the_exit_codes_of_success_defects_and_usage_alone() -> None:
    assert all(2 < item.exit_code < 64 for item in REFUSALS)
    assert EdgevlmError.exit_code == 1


def test_every_bad_input_can_be_caught_as_one() -> None:
    for name in ("ShapeError", "StampError", "InstructionError", "NonFiniteError", "WindowNotReadyError"):
        assert issubclass(getattr(errors, name), ContractError)


def test_require_gives_the_module_that_is_there() -> None:
    assert require("json", extra="cpu").loads("[1]") == [1]


def test_require_names_the_extra_that_brings_a_missing_package() -> None:
    with pytest.raises(DependencyError, match=r"no_such_engine.*pip install '\.\[tensorrt\]'") as caught:
        require("no_such_engine", extra="tensorrt")
    assert isinstance(caught.value.__cause__, ImportError)


@settings(max_examples=200)
@given(text=st.text(max_size=60) | st.sampled_from(["\x1b[2J", "\x9b31m", "a\u202eb", "bell\x07", "\r\b\x7f"]))
def test_the_text_of_an_error_has_nothing_that_a_terminal_obeys(text: str) -> None:
    printed = str(ContractError(f"frame_id: got {text}"))
    assert not set(printed) & CONTROL_CHARACTERS - {"\n", "\t"}
    assert printable("plain\ttext\n") == "plain\ttext\n"
