"""The shell: `adjointdpm generate | invert | invert-image | check | table1 | doctor`.

Importing this package loads neither torch nor diffusers, so `adjointdpm --help` answers at once; every command
imports what it needs when it runs.  `docs/cli.md` describes commands, exit codes and the JSON documents.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: `sys.argv[1:]`) and return its exit code.

    0: done; 1: the run failed; 2: bad input, nothing was started; 130 / 143: interrupted by SIGINT / SIGTERM.
    """
    from adjointdpm.cli.boundary import run

    return run(argv)
