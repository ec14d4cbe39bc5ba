"""The border between the library and the shell: exceptions become one message and an exit code.

An error of the library says what was wrong and what to do, so a traceback would only hide it; `--debug` shows it all
the same.  With `--json` a failure is a JSON document too: `{"error": {"type", "message", "exit_code"}}`.
SIGTERM is raised as an exception like SIGINT's, so that a task saves its state before the process ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any, TextIO

from adjointdpm.cli.shell import Shell
from adjointdpm.errors import AdjointDPMError

OK, FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
PROGRAM = "adjointdpm"


class Terminated(KeyboardInterrupt):
    """SIGTERM; a KeyboardInterrupt, so that whatever saves its state on Ctrl-C does so here as well."""


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code and never raises for an error of the command."""
    from typer.exceptions import TyperException
    from typer.main import get_command

    from adjointdpm.cli.app import app

    arguments = list(sys.argv[1:] if argv is None else argv)
    flags = arguments[: arguments.index("--")] if "--" in arguments else arguments
    beside = os.environ.get("RANK", "0") != "0"  # of `accelerate launch`: the main process speaks for all
    shell, debug = Shell("--json" in flags, mute=beside), "--debug" in flags
    received: list[int] = []
    try:
        with _terminate_as_exception(received), _warnings_as_lines(shell, debug), _guarded_stdout(shell):
            code = get_command(app).main(arguments, prog_name=PROGRAM, standalone_mode=False, obj=shell)
    except TyperException as error:
        return _fail(shell, error, _usage(error), error.exit_code, debug)
    except SystemExit as error:  # a task that saved its state on a signal ends like this, with 130 or 143
        code = error.code if isinstance(error.code, int) else FAILED
        bare = type(error) is SystemExit and isinstance(error.code, int)  # of a closed pipe, say: nothing to tell
        return code if code == OK else _fail(shell, error, "" if bare else str(error), code, debug)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        return _fail(shell, error, *_explain(error), debug)
    if code == INTERRUPTED:
        code = TERMINATED if received else INTERRUPTED
        shell.error("terminated" if received else "interrupted")
        shell.emit({"error": {"type": "Interrupted", "message": "stopped by a signal", "exit_code": code}})
    return code if isinstance(code, int) else OK


def _usage(error: Exception) -> str:
    """What is wrong with the command line, and where the options are explained."""
    message: str = error.format_message()  # type: ignore[attr-defined]
    path = getattr(getattr(error, "ctx", None), "command_path", None)
    return f"{message} (see {path} --help)" if message and path else message


def _explain(error: Exception) -> tuple[str, int]:
    """Message and exit code of an exception that a command raised."""
    if isinstance(error, AdjointDPMError):
        # Bad input is a ValueError by the hierarchy of `adjointdpm.errors`; the rest went wrong during the run.
        return str(error), BAD_INPUT if isinstance(error, ValueError) else FAILED
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: {error}. Fewer images at once (--batch), a smaller size or dtype need less.", FAILED
    if isinstance(error, OSError):
        return f"{error}", FAILED
    return f"{type(error).__name__}: {error} (this was not expected; --debug shows where it came from)", FAILED


def _fail(shell: Shell, error: BaseException, message: str, code: int, debug: bool) -> int:
    if debug:
        shell.traceback()
    if message:  # none where the help has just been printed
        shell.error(message)
    shell.emit({"error": {"type": type(error).__name__, "message": message, "exit_code": code}})
    return code


@contextmanager
def _terminate_as_exception(received: list[int]) -> Iterator[None]:
    """SIGTERM raises `Terminated` in the main thread; the previous handler is put back at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signal handlers belong to the main thread
        return

    def handler(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise Terminated

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _warnings_as_lines(shell: Shell, debug: bool) -> Iterator[None]:
    """The library's warnings are one line each, once; those of other packages, which help nobody, need --debug."""
    from adjointdpm import errors

    own = tuple(vars(errors)[name] for name in errors.__all__ if name.endswith("Warning"))
    seen: set[str] = set()

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        text = str(message)
        if (debug or issubclass(category, own)) and text not in seen:
            seen.add(text)
            shell.warn(text)

    with warnings.catch_warnings():
        for category in own:
            warnings.simplefilter("always", category)
        previous: Any = warnings.showwarning
        warnings.showwarning = show
        try:
            yield
        finally:
            warnings.showwarning = previous


@contextmanager
def _guarded_stdout(shell: Shell) -> Iterator[None]:
    """With `--json`, whatever another package prints goes to stderr; the shell keeps the real stdout."""
    if not shell.as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield
