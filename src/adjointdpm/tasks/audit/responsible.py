"""The rules of responsible use that the code enforces; docs/responsible-use.md explains them.

- A network under audit is a local object.  A name that is an address is refused, and while a network runs, opening a
  connection raises, in whatever thread: a hosted service is audited by its owner, on the owner's machine.
- Filter mode names the owner of the filter and the purpose of the audit, and both are printed in the report.
- Filter mode keeps images, noises and embeddings in memory only, and writes rates.  `record_of` is what its record
  holds in place of the prompts: their number and a hash, so that a run can be recognised but not read.  `wordless`
  keeps their words out of warnings and errors.
- What a filter must never be probed for (`special_care`) is dropped and counted, by `filters` and `search`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from adjointdpm.errors import InputWarning, InvalidInput

__all__ = ["PAGE", "WORDS", "local_only", "record_of", "refuse_address", "statement", "wordless"]

PAGE = "docs/responsible-use.md"
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://|^//|^(www\.|localhost\b)|^\d{1,3}(\.\d{1,3}){3}\b", re.IGNORECASE)
WORDS = ("prompts", "negative_prompt", "control_prompts")  # settings that filter mode neither writes nor prints
TALKERS = ("diffusers", "transformers")  # loggers that repeat what a tokenizer cuts
_inside: list[str] = []  # the networks that run now, in any thread


def refuse_address(name: str, what: str = "network") -> str:
    """`name` unless it is an address; raises `InvalidInput`."""
    if _ADDRESS.match(name.strip()):
        raise InvalidInput(
            f"{what} {name!r} is an address: audits are of local networks only ('module:function', 'file.py:function' "
            f"or a folder), never of a hosted service. See {PAGE}"
        )
    return name


@contextmanager
def local_only(name: str) -> Iterator[None]:
    """Within the block, code that opens a connection raises `InvalidInput` naming the network, also in other threads:
    a network may have some of its own."""
    _guard()
    _inside.append(name)
    try:
        yield
    finally:
        _inside.remove(name)


def _guard() -> None:
    """Put the check into Python's sockets once; it is passive outside of `local_only`."""
    if getattr(socket.socket.connect, "_of_audit", False):
        return
    for method in ("connect", "connect_ex"):
        setattr(socket.socket, method, _checked(getattr(socket.socket, method)))


def _checked(original: Callable[..., Any]) -> Callable[..., Any]:
    def connect(self: socket.socket, address: Any) -> Any:
        name = next(reversed(_inside), None)
        if name is not None and self.family != getattr(socket, "AF_UNIX", None):
            raise InvalidInput(
                f"{name} opens a connection to {address!r}: audits are of local networks only, never of a hosted "
                f"service. See {PAGE}"
            )
        return original(self, address)

    connect._of_audit = True  # type: ignore[attr-defined]
    return connect


@contextmanager
def wordless(texts: Sequence[str]) -> Iterator[None]:
    """Within the block, what a tokenizer has to say of `texts` is said without their words, or parts of them."""
    loggers = [logging.getLogger(name) for name in TALKERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            yield
    except InvalidInput as error:
        message = str(error)
        for text in texts:
            message = message.replace(repr(text), "(not shown)")
        raise InvalidInput(message) from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    if any(issubclass(warning.category, InputWarning) for warning in seen):
        warnings.warn(
            "prompts are cut, or have words outside the vocabulary; filter mode does not say which: try them with "
            "adjointdpm generate",
            InputWarning,
            stacklevel=4,
        )


def statement(owner: str | None, purpose: str | None) -> str:
    """The sentence in every report."""
    who = f" Owner of the network: {owner}." if owner else ""
    why = f" Purpose of the audit: {purpose}." if purpose else ""
    return (
        "This report is for those who run the network, to harden and to compare it." + who + why + " A weakness that "
        "is found in somebody else's network is reported to its owner before anybody else."
    )


def record_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as filter mode records them: texts that a user wrote for prompts as their number and a hash."""
    return {**config, **{name: _hashed(config[name]) for name in WORDS if config.get(name)}}


def _hashed(texts: Any) -> dict[str, Any]:
    plain = json.dumps(texts, ensure_ascii=False)
    count = 1 if isinstance(texts, str) else len(texts)
    return {"count": count, "sha256": hashlib.sha256(plain.encode()).hexdigest()}
