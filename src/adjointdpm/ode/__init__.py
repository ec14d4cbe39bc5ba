"""The probability-flow ODE in three forms: raw (eq. 6), exponentially integrated (eq. 11) and angle."""

from __future__ import annotations

from typing import Literal, get_args

from adjointdpm.errors import InvalidInput
from adjointdpm.models import GuidedDenoiser
from adjointdpm.ode.angle import AngleODE
from adjointdpm.ode.base import ODE
from adjointdpm.ode.exponential import ExponentialODE
from adjointdpm.ode.raw import RawODE

__all__ = ["ODE", "AngleODE", "ExponentialODE", "Form", "RawODE", "make_ode"]

Form = Literal["raw", "exponential", "angle"]


def make_ode(form: Form, model: GuidedDenoiser) -> ODE:
    """The ODE of a model in a form; the angle form takes its flow variant for flow networks.

    Raises:
        InvalidInput: an unknown form.
    """
    denoiser = model.denoiser
    if form == "raw":
        return RawODE(model, denoiser.schedule)
    if form == "exponential":
        return ExponentialODE(model, denoiser.schedule)
    if form == "angle":
        return AngleODE(model, denoiser.schedule, straight=denoiser.prediction == "flow")
    raise InvalidInput(f"form={form!r} is unknown; choose one of {', '.join(get_args(Form))}")
