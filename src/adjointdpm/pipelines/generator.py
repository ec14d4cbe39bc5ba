"""`differentiable(pipe)`: a diffusers pipeline whose images carry a graph."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.numerics import LiveTensorMeter, resident_bytes
from adjointdpm.pipelines import pipeline_road
from adjointdpm.pipelines.components import check_networks, check_schedulers
from adjointdpm.pipelines.encode import encode_prompt
from adjointdpm.pipelines.inputs import Call, check_call
from adjointdpm.pipelines.noise import draw_latents, generators, image_seeds
from adjointdpm.pipelines.ode_road import OdeRoad
from adjointdpm.pipelines.outcome import Outcome
from adjointdpm.pipelines.pictures import verdict
from adjointdpm.pipelines.private import pipeline_function, schedulers_of
from adjointdpm.pipelines.result import Generated, Stats
from adjointdpm.pipelines.settings import Settings
from adjointdpm.pipelines.tensors import handed_over, refuse_unused
from adjointdpm.pipelines.wrt import Selection, frozen, reached_nodes, require_reached, select, unasked
from adjointdpm.sampler import to_noise

__all__ = ["Generator", "differentiable"]

Wrt = str | Iterable[str] | None


def differentiable(
    pipe: Any,
    *,
    wrt: Wrt = None,
    solver: Any = None,
    spacing: str | None = None,
    form: str | None = None,
    gradient: Any = "exact",
    memory: int | float | str | None = None,
    branches: str = "batched",
    guidance_interval: tuple[float, float] | None = None,
    state_dtype: torch.dtype | None = None,
    on_adjoint: Callable[[int, torch.Tensor], None] | None = None,
) -> Generator:
    """Make a diffusers pipeline differentiable.

    Without `solver` the pipeline's own `__call__` runs, with the scheduler it came with, and the gradient is exact for
    the image that it gives (the pipeline road).  With `solver` the probability-flow ODE of the pipeline's schedule is
    solved instead (the ODE road), which offers every solver and engine of `adjointdpm.sample`.

    The two define a guidance scale of at most 1 differently.  Pipeline: guidance is off, only the prompt counts.  ODE:
    the formula s·ε(c) + (1−s)·ε(∅) holds for every s, so 0 means unconditional.  They agree at 1 and above.

    Args:
        pipe: any diffusers pipeline; neither it nor its scheduler is changed.
        wrt: what gets a gradient: None for everything that requires grad; otherwise any of "x_T", "cond", "guidance",
            "weights" (all of the denoisers) and name patterns such as "unet.*attn2*".
        solver: None, or a solver's name ("euler", "heun", "rk4", "ab1" … "ab4", "dpmpp2m", "belm", "dopri5",
            "ancestral", "euler_maruyama") or object.
        spacing: of the ODE road's grid ("logsnr" by default).
        form: of the ODE: "raw", "exponential" (default) or "angle".
        gradient: "exact" or "full" (plain backpropagation); on the ODE road also "reversible" (with "belm"), "adjoint",
            the biased "truncated", "random_truncation" and "one_step", or an engine object.
        memory: bytes for everything on the device ("6GB", 2e9, or "auto" for what is free): as many network graphs as
            fit are kept for backward, which saves running them again; still exact.  None keeps the last ones only.
        branches: "sequential" runs the two branches of guidance one after the other (on the pipeline road by splitting
            each batch in two), at about half the peak of a gradient; equal to "batched" to rounding.
        guidance_interval: of the ODE road: (low, high) in sigma / alpha outside of which the prompt counts alone.
        state_dtype: of the ODE road: dtype of the state, see `adjointdpm.sample`.
        on_adjoint: of the ODE road: called in backward with each node and dL/dy there, see `adjointdpm.sample`.

    Returns:
        A `Generator`; call it as the pipeline: `gen(prompt, latents=…, num_inference_steps=…)`.

    Raises:
        InvalidInput: not a pipeline, an unknown option, a pattern that matches no weight, networks that cannot run.
        NotDifferentiable: the pipeline's `__call__` or its scheduler has no derivative.
    """
    if not (hasattr(pipe, "components") and hasattr(pipe, "register_modules")):
        raise InvalidInput(
            f"expected a diffusers pipeline, got {type(pipe).__name__}; for a network of your own use ad.sample"
        )
    names = None if wrt is None else (wrt,) if isinstance(wrt, str) else tuple(wrt)
    return Generator(
        pipe,
        Settings(names, solver, spacing, form, gradient, memory, branches, guidance_interval, state_dtype, on_adjoint),
    )


class Generator:
    """A pipeline whose images carry a graph; made by `differentiable`.

    Attributes:
        pipe: the user's pipeline.
        settings: how it runs.
        road: "pipeline" or "ode".
    """

    def __init__(self, pipe: Any, settings: Settings):
        self.pipe = pipe
        self.settings = settings
        self.road = settings.road
        check_networks(pipe)
        self._function = pipeline_function(type(pipe))
        if self.road == "pipeline":
            check_schedulers(pipe)
        else:
            self._ode = OdeRoad(pipe, settings)
        self._selection = select(pipe, settings.wrt)

    def __repr__(self) -> str:
        changed = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(Settings)}
        shown = ", ".join(f"{name}={value!r}" for name, value in changed.items() if value is not None)
        return f"differentiable({type(self.pipe).__name__}, {shown})"

    def identity(self) -> dict[str, str]:
        """Pipeline, schedule and settings as text: with equal weights, what makes the same images and gradients.

        `memory` decides only how the gradient is computed and is left out.
        """
        plain = {
            name: {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
            for name, scheduler in schedulers_of(self.pipe).items()
        }
        schedule = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]
        found = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(Settings) if f.name != "memory"}
        sampler = {"pipeline": type(self.pipe).__name__, "sampler": self._sampler_name(), "schedule": schedule}
        return sampler | {name: str(value) for name, value in found.items() if value is not None}

    def with_(self, **changes: Any) -> Generator:
        """A generator of the same pipeline with other settings, such as `gradient="full"`."""
        unknown = set(changes) - {f.name for f in dataclasses.fields(Settings)}
        if unknown:
            raise InvalidInput(
                f"unknown settings {sorted(unknown)}; known: {[f.name for f in dataclasses.fields(Settings)]}"
            )
        merged = {**{f.name: getattr(self.settings, f.name) for f in dataclasses.fields(Settings)}, **changes}
        return differentiable(self.pipe, **merged)

    @property
    def accepts(self) -> tuple[str, ...]:
        """The names of the arguments that the pipeline's call takes."""
        return tuple(inspect.signature(self._function).parameters)[1:]

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The weights that get a gradient, with their full names such as `unet.conv_in.weight`."""
        yield from ((name, p) for name, p in self._now_selected().weights.items() if p.requires_grad)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The weights that get a gradient, for an optimizer."""
        yield from (p for _, p in self.named_parameters())

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Text embeddings of prompts, (B, L, D) each: of the prompts and of the negative ones ("" by default).

        They carry a graph to the text encoder's weights where those get a gradient.
        """
        with frozen(unasked(self.pipe, self._now_selected())):
            encoded = encode_prompt(self.pipe, prompt, negative_prompt)
        return encoded["prompt_embeds"], encoded["negative_prompt_embeds"]

    def prepare_latents(
        self, batch: int, seed: int | Sequence[int], height: int | None = None, width: int | None = None
    ) -> torch.Tensor:
        """The noise that a call with this seed starts from: (B, C, h, w), float32, of unit variance."""
        return draw_latents(self.pipe, image_seeds(seed, batch), height, width)

    def to_noise(self, latents: torch.Tensor, prompt: str | list[str] | None = None, **arguments: Any) -> torch.Tensor:
        """The noise (B, C, h, w) that the ODE leads to from clean latents; see `invert_image`.  ODE road only.

        Args:
            latents: (B, C, h, w), as the autoencoder's encoding gives them.
            prompt, arguments: as in a call.
        """
        if self.road != "ode":
            raise InvalidInput("only an ODE runs backward: make the generator with a solver, such as solver='ab4'")
        call = self._checked({"prompt": prompt, **arguments, "latents": latents})
        return self._ode.solve(call, self._ode.before_last_step(call, latents), to_noise).x0

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        measure: bool = False,
        **arguments: Any,
    ) -> Generated:
        """Generate images with a graph.

        Args:
            prompt: text, or list of texts; every further argument is the pipeline's own, with its own default:
                negative_prompt, prompt_embeds, negative_prompt_embeds (B, L, D), latents (B, C, h, w) of unit variance
                (the pipeline multiplies by its scheduler's `init_noise_sigma`), num_inference_steps, guidance_scale (a
                number, or a tensor of shape () or (B,)), num_images_per_prompt, height, width, generator,
                callback_on_step_end, …
            seed: image i of a whole number uses seed + i and a generator of its own, so it does not depend on its
                batch; or one seed for each image.
            measure: on a CPU, count the bytes of live tensors, in backward too (costs 14–22 % of the time).

        Raises:
            InvalidInput: a bad argument, found before any network runs.
            UnreachedGradient: a tensor requires grad that no gradient can reach.
            NotDifferentiable: the scheduler cuts the graph between noise and image.
            NonFinite: the image holds NaN or Inf.
        """
        call = self._checked({"prompt": prompt, **arguments})
        selection = self._now_selected()
        seeds = None if seed is None else image_seeds(seed, call.batch)
        if seeds is not None:
            if call.arguments.get("generator") is not None:
                raise InvalidInput("both seed and generator are given: expected one of them")
            call.arguments["generator"] = generators(self.pipe, self._function, seeds)
        if self.road == "pipeline":
            refuse_unused(call, selection)
        return self._run(call, selection, seeds, measure)

    def _checked(self, arguments: dict[str, Any]) -> Call:
        if arguments["prompt"] is None and "prompt" not in self.accepts:
            del arguments["prompt"]
        check_networks(self.pipe)
        return check_call(self.pipe, self._function, arguments, any_guidance=self.road == "ode")

    def _now_selected(self) -> Selection:
        """Without `wrt`, what requires grad now counts, not what did when the generator was made."""
        return self._selection if self.settings.wrt is not None else select(self.pipe, None)

    def _run(self, call: Call, selection: Selection, seeds: list[int] | None, measure: bool) -> Generated:
        handed, sources = handed_over(self.pipe, call, selection, shape_guidance=self.road == "pipeline")
        call = dataclasses.replace(call, arguments=handed)
        device = self.pipe._execution_device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        with LiveTensorMeter() if measure and device.type == "cpu" else nullcontext() as meter:
            if self.road == "pipeline":
                outcome = pipeline_road.run(self.pipe, call, selection, self.settings, device)
            else:
                outcome = self._ode.run(call, selection)
        if not bool(torch.isfinite(outcome.unclamped.detach()).all()):
            raise NonFinite(
                f"the image holds NaN or Inf: {self._sampler_name()} with these settings made them, or a network that "
                "overflows in its number format (a float16 autoencoder?)"
            )
        if torch.is_grad_enabled():
            self._check_reached(outcome, sources, selection)
        decoded = None if outcome.decoded is None else outcome.decoded.detach()
        stats = Stats(
            self.road,
            str(getattr(self.settings.gradient, "name", self.settings.gradient)),
            self._sampler_name(),
            call.steps,
            outcome.nfe,
            seeds=seeds,
        )
        stats.counts, stats.safety = outcome.counts, verdict(self.pipe, decoded)
        stats.seconds, stats.rss_bytes = time.perf_counter() - began, resident_bytes()
        stats.peak_bytes = (
            torch.cuda.max_memory_allocated(device) if device.type == "cuda" else getattr(meter, "peak_bytes", None)
        )
        ends = [t for t in (outcome.decoded, outcome.unclamped, outcome.latents) if t is not None]
        stats.time_backward(*ends)
        if isinstance(meter, LiveTensorMeter):
            stats.measure_backward(meter, reached_nodes([outcome.image, *ends]))
        frames = outcome.image if outcome.image.ndim == 5 else None
        return Generated(outcome.image, outcome.unclamped, outcome.latents, stats, frames, self.pipe, decoded)

    def _check_reached(self, outcome: Outcome, sources: dict[str, torch.Tensor], selection: Selection) -> None:
        seen = [t for t in (outcome.image, outcome.unclamped, outcome.latents) if t is not None]
        if "latents" in sources and not any(t.requires_grad for t in seen):
            raise NotDifferentiable(
                f"{self._sampler_name()} in {type(self.pipe).__name__} cuts the graph between noise and image (a "
                "no_grad, a detach or a step outside torch in its code): no gradient can be taken through it"
            )
        require_reached(seen, sources, selection, {"latents": f"{self._sampler_name()} does not start from them"})

    def _sampler_name(self) -> str:
        if self.road == "ode":
            return self._ode.name
        return ", ".join(type(s).__name__ for s in schedulers_of(self.pipe).values()) or "the sampler"
