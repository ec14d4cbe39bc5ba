"""Which packages the library asks for, which of them are here, and whether they import.

Names and minimum versions come from the library's own metadata, so they are written once (pyproject.toml).  A version
alone proves little: a package can be installed and broken, as torchvision is beside a torch of another build, so every
one is imported.  Only the standard library is used, because this has to run when everything else is missing.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from importlib import metadata

__all__ = ["Package", "extras", "look_up", "required"]

DISTRIBUTION = "adjointdpm"
IMPORT_NAME = {"pillow": "PIL", "pyyaml": "yaml"}
REQUIREMENT = re.compile(r"^(?P<name>[\w.-]+)(?:\[[^]]*\])?\s*(?P<specifier>[^;]*)(?:;\s*(?P<marker>.*))?$")
DEVELOPMENT = "dev"


@dataclass(frozen=True)
class Package:
    """One package: the version asked for and found, and what is wrong with it ("" if nothing) and how to cure it."""

    name: str
    wanted: str
    found: str | None
    problem: str = ""
    remedy: str = ""


def required() -> list[Package]:
    """Every package that the library cannot do without, looked up and imported."""
    return [look_up(name, wanted) for name, wanted in _requirements(None)]


def extras() -> dict[str, list[Package]]:
    """The optional groups of packages by name, with the packages of each; that of developers left out."""
    groups = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    return {
        group: [look_up(*pair, extra=group) for pair in _requirements(group)]
        for group in groups
        if group != DEVELOPMENT
    }


def look_up(name: str, wanted: str = "", extra: str | None = None) -> Package:
    """The installed package `name`: present, new enough for `wanted` (such as ">=2.6"), importable?"""
    target = f"'{DISTRIBUTION}[{extra}]'" if extra else f"'{name}{wanted}'"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Package(name, wanted, None, "not installed", f"pip install {target}")
    if wanted.startswith(">=") and _numbers(found) < _numbers(wanted):
        return Package(name, wanted, found, f"older than {wanted[2:]}", f"pip install --upgrade {target}")
    try:
        importlib.import_module(IMPORT_NAME.get(name, name.replace("-", "_")))
    except Exception as error:  # a broken package can raise anything while it is imported
        reason = f"installed but does not import: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Package(name, wanted, found, reason, f"pip install --force-reinstall --no-deps {name}")
    return Package(name, wanted, found)


def _requirements(extra: str | None) -> list[tuple[str, str]]:
    """(name, version asked for) of the requirements without a marker, or of those of one extra."""
    found = []
    for line in metadata.requires(DISTRIBUTION) or []:
        match = REQUIREMENT.match(line)
        if match is None:
            continue
        group = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", match["marker"] or "")
        if (group[1] if group else None) == extra:
            found.append((match["name"].lower(), match["specifier"].strip()))
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
