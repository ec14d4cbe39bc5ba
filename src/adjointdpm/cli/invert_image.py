"""`adjointdpm invert-image`: an image file -> the noise that the model turns into it, and how close it comes.

The noise is found by running the ODE from data to noise, so it belongs to that ODE: the file records solver, spacing,
steps, guidance and prompt, and the command ends with the line that paints from it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.output import check_folder_for_output, refuse_overwriting
from adjointdpm.cli.shell import Shell

__all__ = ["InversionRequest", "invert_image"]

NOISE, RECONSTRUCTION = "noise.safetensors", "reconstruction.png"


@dataclass(frozen=True, kw_only=True)
class InversionRequest:
    """What to invert and how; the fields are the command's options."""

    image: Path
    prompt: str
    steps: int
    guidance: float
    out: Path
    force: bool
    solver: str
    spacing: str
    form: str | None


def invert_image(shell: Shell, request: InversionRequest, choice: ModelChoice) -> int:
    """Invert and save; the JSON document holds the PSNR in dB, that of the autoencoder alone, and the files."""
    noise_file, picture_file = request.out / NOISE, request.out / RECONSTRUCTION
    refuse_overwriting([noise_file, picture_file], request.force)
    check_folder_for_output(request.out)

    import adjointdpm as ad
    from adjointdpm.formats import save_png
    from adjointdpm.pipelines.pictures import safe_pictures
    from adjointdpm.runs import save_tensors

    road: dict[str, Any] = {"solver": request.solver, "spacing": request.spacing, "form": request.form}
    road = {name: value for name, value in road.items() if value is not None}
    generator = ad.differentiable(choice.load(), **road)
    shell.note(f"inverting {request.image} in {request.steps} steps …")
    found = ad.invert_image(
        generator,
        str(request.image),
        prompt=request.prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
    )
    call = {**road, "steps": request.steps, "guidance": request.guidance, "prompt": request.prompt}
    metadata = {name: str(value) for name, value in {"format": "pt", "model": choice.name, **call}.items()}
    save_tensors(noise_file, {"latents": found.latents}, metadata)
    # After the pipeline's safety checker and watermark, as everything that is saved.
    save_png(safe_pictures(generator.pipe, found.image, found.image * 2 - 1, None)[0], picture_file)
    options = {"noise": noise_file, "model": choice.model, **{k: v for k, v in call.items() if k != "prompt"}}
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    again = shlex.join(["adjointdpm", "generate", request.prompt, *words])
    shell.emit(
        {
            "command": "invert-image",
            "model": choice.name,
            "image": request.image,
            "psnr_db": found.psnr[0],
            "autoencoder_psnr_db": found.autoencoder_psnr[0],
            "noise": noise_file,
            "reconstruction": picture_file,
            "settings": call,
            "again": again,
        }
    )
    shell.say(f"PSNR            {found.psnr[0]:.1f} dB (the autoencoder alone: {found.autoencoder_psnr[0]:.1f} dB)")
    shell.say(f"noise           {noise_file}")
    shell.say(f"reconstruction  {picture_file}")
    shell.say(f"paint from it   {again}")
    return 0
