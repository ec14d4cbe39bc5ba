"""Gradients of any differentiable metric on a diffusion model's image, exact and at constant memory.

`import adjointdpm as ad` loads torch and numpy only; every other name is imported the first time it is used.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adjointdpm import formats, losses, tasks, zoo
    from adjointdpm.gradients.check import check_gradients
    from adjointdpm.gradients.jvp import jvp
    from adjointdpm.gradients.planner import plan
    from adjointdpm.models import Denoiser
    from adjointdpm.pipelines import differentiable, invert_image
    from adjointdpm.replay import replay
    from adjointdpm.sampler import sample

__version__ = "0.1.0"

__all__ = [
    "Denoiser",
    "check_gradients",
    "differentiable",
    "formats",
    "invert_image",
    "jvp",
    "losses",
    "plan",
    "replay",
    "sample",
    "tasks",
    "zoo",
]

_HOME = {
    "Denoiser": "adjointdpm.models",
    "check_gradients": "adjointdpm.gradients.check",
    "differentiable": "adjointdpm.pipelines",
    "jvp": "adjointdpm.gradients.jvp",
    "plan": "adjointdpm.gradients.planner",
    "replay": "adjointdpm.replay",
    "invert_image": "adjointdpm.pipelines",
    "sample": "adjointdpm.sampler",
}
_MODULES = ("formats", "losses", "tasks", "zoo")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"adjointdpm.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'adjointdpm' has no attribute '{name}'")


class _Package(ModuleType):
    """Importing the module `adjointdpm.replay` binds its function of the same name here, never the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.replay if name == "replay" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
