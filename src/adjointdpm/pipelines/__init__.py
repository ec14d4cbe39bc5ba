"""diffusers pipelines made differentiable: `differentiable(pipe)` and `invert_image(gen, image)`.

Two roads lead from a prompt to an image with a graph, and both give the same result object: the pipeline's own code
with its network calls replayed (`pipeline_road`), or the probability-flow ODE (`ode_road`).
"""

from adjointdpm.pipelines.generator import Generator, differentiable
from adjointdpm.pipelines.invert import inversion_settings, invert_image
from adjointdpm.pipelines.result import Generated, Inverted, Stats
from adjointdpm.pipelines.settings import Settings

__all__ = [
    "Generated",
    "Generator",
    "Inverted",
    "Settings",
    "Stats",
    "differentiable",
    "inversion_settings",
    "invert_image",
]
