"""Lines of Python for reports that draw an image as the run did, with the pipeline in `pipe`."""

from __future__ import annotations

from typing import Any

from adjointdpm.tasks.settings import TaskConfig

__all__ = ["drawing"]

ROAD = ("solver", "spacing", "form", "guidance_interval", "branches", "state_dtype")


def drawing(generator: Any, config: TaskConfig, what: str) -> str:
    """`image = …` of `what`, the call's first arguments, with the run's sampler, steps, guidance and negative prompt.

    By the pipeline itself where its own scheduler painted the run's images; else by the same solver of the ODE.
    """
    call = f"{what}, num_inference_steps={config.steps}, guidance_scale={config.guidance_scale:g}"
    if config.negative_prompt:
        call += f", negative_prompt={config.negative_prompt!r}"
    if generator.road == "pipeline":
        return f"image = pipe({call}).images[0]"
    settings = generator.settings
    road = {name: getattr(settings, name) for name in ROAD if getattr(settings, name) not in (None, "batched")}
    given = "".join(f", {name}={value!r}" for name, value in road.items())
    return (
        f"import torch, adjointdpm\n"
        f"paint = adjointdpm.differentiable(pipe{given})\n"
        f"with torch.no_grad():\n"
        f"    image = paint({call}).pil()[0]"
    )
