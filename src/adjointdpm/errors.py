"""Exceptions and warnings of the library.

Every exception derives from `AdjointDPMError`, so one `except` catches them all, and also from the built-in class that
a caller would expect (`ValueError` for bad input, `RuntimeError` for a state that went wrong), so code that knows
nothing of this library handles them sensibly.  Messages say what was passed, what was expected and what to try.
"""

from __future__ import annotations

__all__ = [
    "AdjointDPMError",
    "InputWarning",
    "InvalidInput",
    "NonFinite",
    "NotConverged",
    "NotDifferentiable",
    "NumericalWarning",
    "PerformanceWarning",
    "UnreachedGradient",
    "WeightsChanged",
]


class AdjointDPMError(Exception):
    """Base class of every error that the library raises on purpose."""


class InvalidInput(AdjointDPMError, ValueError):
    """An argument has the wrong type, shape, range or combination; raised before any long work."""


class WeightsChanged(AdjointDPMError, RuntimeError):
    """A weight or buffer changed between a forward and its backward, so the gradient would be wrong."""


class UnreachedGradient(AdjointDPMError, RuntimeError):
    """A tensor requires grad but the chosen road cannot carry a gradient to it."""


class NotDifferentiable(AdjointDPMError, ValueError):
    """The requested sampler, scheduler, loss or operation has no usable derivative."""


class NonFinite(AdjointDPMError, ArithmeticError):
    """A NaN or an infinity appeared where a finite number is needed; the message names the step."""


class NotConverged(AdjointDPMError, ArithmeticError):
    """An adaptive solver met its maximum of evaluations; the message names the time reached."""


class PerformanceWarning(UserWarning):
    """The result is right, but costs more time or memory than it needs to."""


class NumericalWarning(UserWarning):
    """The result is usable, but less accurate than the default settings promise."""


class InputWarning(UserWarning):
    """An input was accepted but part of it is ignored, cut or converted."""
