"""`python -m adjointdpm` is the same as the `adjointdpm` command."""

from __future__ import annotations

import sys

from adjointdpm.cli import main

if __name__ == "__main__":
    sys.exit(main())
