"""The command answers at once: help loads neither torch nor diffusers, and needs no terminal."""

import os
import resource
import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL", "matplotlib")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=60
    )


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["--version"], []])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    ran = python(
        "import sys\nfrom adjointdpm.cli import main\n"
        f"code = main({arguments!r})\n"
        f"print('LOADED', sorted(set({HEAVY!r}) & set(sys.modules)), code)"
    )
    expected = 2 if not arguments else 0
    assert f"LOADED [] {expected}" in ran.stdout, ran.stdout + ran.stderr
    assert ("adjointdpm 0" if arguments == ["--version"] else "Usage: adjointdpm") in ran.stdout


def test_help_takes_less_than_a_second() -> None:
    """Of processor time, which a busy machine does not stretch as it does the clock."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert subprocess.run([sys.executable, "-m", "adjointdpm", "--help"], capture_output=True).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_no_escape_codes_without_a_terminal() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "adjointdpm", "generate", "x", "--steps", "0"], capture_output=True, timeout=60
    )
    assert ran.returncode == 2
    assert b"\x1b" not in ran.stdout + ran.stderr
    assert ran.stdout == b""
