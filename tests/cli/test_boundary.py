"""Exceptions become one message and an exit code; stdout stays for results."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from adjointdpm.cli import boundary
from adjointdpm.cli import doctor as doctor_module
from adjointdpm.errors import InputWarning, InvalidInput, NonFinite, NotDifferentiable, WeightsChanged
from adjointdpm.runs.signals import RunInterrupted


@pytest.fixture
def command(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`doctor` with another body: `command(body, *options)`."""

    def run(body: Callable[[Any], int], *options: str) -> Any:
        monkeypatch.setattr(doctor_module, "doctor", body)
        return cli("doctor", *options)

    return run


def raising(error: BaseException) -> Callable[[Any], int]:
    def body(shell: Any) -> int:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("steps is 0"), 2),
        (NotDifferentiable("no derivative"), 2),
        (NonFinite("NaN at step 3"), 1),
        (WeightsChanged("unet changed"), 1),
        (OSError(28, "No space left on device"), 1),
        (MemoryError("4 GiB"), 1),
        (ZeroDivisionError("division by zero"), 1),
        (RunInterrupted("saved at step 4", 130), 130),
        (RunInterrupted("saved at step 4", 143), 143),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_codes(command: Callable[..., Any], error: BaseException, code: int) -> None:
    ran = command(raising(error))
    assert ran.code == code
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert ran.err.startswith("error: ")
    assert str(error) in ran.err
    as_json = command(raising(error), "--json")
    assert as_json.code == code
    assert as_json.document["error"]["exit_code"] == code


def test_debug_shows_the_traceback(command: Callable[..., Any]) -> None:
    ran = command(raising(InvalidInput("steps is 0")), "--debug")
    assert "Traceback" in ran.err
    assert "error: steps is 0" in ran.err


def test_unexpected_errors_say_how_to_see_more(command: Callable[..., Any]) -> None:
    assert "--debug" in command(raising(KeyError("x"))).err


def test_sigterm_is_143_and_the_handler_is_put_back(command: Callable[..., Any]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def body(shell: Any) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
        return 0

    ran = command(body)
    assert ran.code == boundary.TERMINATED == 143
    assert "terminated" in ran.err
    assert signal.getsignal(signal.SIGTERM) is before


def test_warnings_of_the_library_are_lines_once(command: Callable[..., Any]) -> None:
    def body(shell: Any) -> int:
        for _ in range(2):
            warnings.warn("word 'zebrafish' is unknown", InputWarning, stacklevel=1)
        warnings.warn("somebody else's business", UserWarning, stacklevel=1)
        shell.emit({"done": True})
        return 0

    assert command(body).err == "warning: word 'zebrafish' is unknown\n"
    ran = command(body, "--json")
    assert ran.document == {"done": True, "warnings": ["word 'zebrafish' is unknown"]}
    assert "somebody" in command(body, "--debug").err


def test_json_keeps_stdout_clean(command: Callable[..., Any]) -> None:
    def body(shell: Any) -> int:
        print("chatter of another package")
        shell.say("for people")
        with shell.progress("working", 2) as advance:
            advance(2)
        shell.emit({"nan": float("nan"), "path": boundary.PROGRAM, "pair": (1, 2.5)})
        return 0

    ran = command(body, "--json")
    assert ran.document == {"nan": None, "path": "adjointdpm", "pair": [1, 2.5], "warnings": []}
    assert "chatter" in ran.err
    assert "working" in ran.err
    assert "for people" not in ran.err
    assert command(body).out == "chatter of another package\nfor people\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["generate"], "PROMPT"),
        (["paint"], "paint"),
        (["generate", "x", "--steps", "0"], "--steps"),
        (["generate", "x", "--steps", "-3"], "--steps"),
        (["generate", "x", "--steps", "2.5"], "--steps"),
        (["generate", "x", "--count", "0"], "--count"),
        (["generate", "x", "--batch", "0"], "--batch"),
        (["generate", "x", "--guidance", "nan"], "--guidance"),
        (["generate", "x", "--guidance", "much"], "--guidance"),
        (["generate", "x", "--seed", "-1"], "--seed"),
        (["generate", "x", "--seed", str(2**64)], "--seed"),
        (["generate", "x", "--step", "3"], "--step"),
    ],
)
def test_wrong_command_lines(cli: Callable[..., Any], arguments: list[str], word: str) -> None:
    ran = cli(*arguments)
    assert ran.code == 2
    assert word in ran.err
    assert "--help" in ran.err
    assert ran.out == ""
    assert cli(*arguments, "--json").document["error"]["exit_code"] == 2


def test_markup_in_user_text_is_taken_literally(command: Callable[..., Any]) -> None:
    assert "[bold]x[/bold] [0]" in command(raising(InvalidInput("[bold]x[/bold] [0]"))).err
