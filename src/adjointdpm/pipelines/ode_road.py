"""The ODE road: the same call, but `adjointdpm.sample` solves the probability-flow ODE of the pipeline's schedule.

Text encoding, autoencoder and image processing are the pipeline's own; noise schedule and prediction type are read from
its scheduler's config.  The latents are those of the variance-preserving clock (unit variance at the start), whatever
scaling the scheduler uses inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.gradients import Engine, make_engine
from adjointdpm.gradients.exact import Exact
from adjointdpm.models import Denoiser, GuidedDenoiser
from adjointdpm.models.guidance import check_interval
from adjointdpm.pipelines.adapters import DiffusersNetwork, conditioning, network_of
from adjointdpm.pipelines.autoencode import decode
from adjointdpm.pipelines.budget import budget_of
from adjointdpm.pipelines.components import autoencoder_of
from adjointdpm.pipelines.encode import encode_prompt
from adjointdpm.pipelines.inputs import Call
from adjointdpm.pipelines.noise import draw_noise
from adjointdpm.pipelines.outcome import Counts, Outcome
from adjointdpm.pipelines.settings import Settings
from adjointdpm.pipelines.tensors import network_dtype
from adjointdpm.pipelines.wrt import Selection, frozen, frozen_when_replayed, unasked
from adjointdpm.replay import replay
from adjointdpm.sampler import Sampled, sample
from adjointdpm.schedules import from_scheduler_config
from adjointdpm.solvers import Solver, make_solver

__all__ = ["OdeRoad"]

ROUNDS = 4  # of the fixed point before the last step

EMBEDDINGS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
TEXT = ("prompt", "prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3", "clip_skip")
SIZES = ("original_size", "target_size", "crops_coords_top_left")
NUMBERS = (
    *("num_inference_steps", "guidance_scale", "guidance_rescale"),
    *("num_images_per_prompt", "height", "width", "batch_size"),
)
READ = (
    *(*EMBEDDINGS, *TEXT, *SIZES, *NUMBERS),
    *("latents", "generator", "cross_attention_kwargs", "callback_on_step_end"),
)


class OdeRoad:
    """How a generator with a solver runs; checked once, when it is made.

    Raises:
        InvalidInput: unknown solver or engine, a scheduler config that is no ODE, a denoiser of unknown signature.
    """

    def __init__(self, pipe: Any, settings: Settings):
        self.pipe = pipe
        self.network = network_of(pipe)
        self.settings = settings
        self.solver = make_solver(settings.solver)
        self.engine = make_engine(settings.gradient)
        check_interval(settings.guidance_interval)
        self.options = {k: v for k in ("spacing", "form") if (v := getattr(settings, k)) is not None}
        self.schedule, self.prediction = from_scheduler_config(pipe.scheduler.config)
        if float(self.schedule.alpha(self.schedule.t_start)) == 0:  # flow or zero terminal SNR: ρ is infinite
            self.options = {"spacing": "uniform", "form": "angle", **self.options}
        self.name = self.solver.name

    def run(self, call: Call, selection: Selection) -> Outcome:
        """Sample and decode on checked arguments."""
        vae = autoencoder_of(self.pipe)
        left_out = unasked(self.pipe, selection)
        with frozen_when_replayed(() if vae is None else (vae,), left_out), frozen(left_out):
            latents = call.arguments.get("latents")
            if latents is None:
                size = call.arguments.get("height"), call.arguments.get("width")
                latents = draw_noise(self.pipe, call.batch, call.arguments.get("generator"), *size)
            replaying = vae is not None and self.engine.name != "full" and torch.is_grad_enabled()
            budget = budget_of(self.pipe, self.settings, latents.shape) if replaying else None
            engine = self.engine if budget is None else Exact(memory=budget)
            sampled = self.solve(call, latents, left_out=left_out[self.network], engine=engine)
            with replay(vae, memory=budget) if replaying else nullcontext() as recorder:
                decoded = decode(self.pipe, sampled.x0.to(network_dtype(self.pipe)))
        unclamped = decoded * 0.5 + 0.5
        counts = Counts(sampled.stats, *([] if recorder is None else [recorder.stats]))
        return Outcome(unclamped.clamp(0, 1), unclamped, sampled.x0, decoded, sampled.stats.nfe, counts)

    def solve(
        self,
        call: Call,
        x: torch.Tensor,
        direction: Callable[..., Sampled] = sample,
        left_out: Sequence[torch.nn.Parameter] = (),
        engine: Engine | None = None,
    ) -> Sampled:
        """Solve the ODE of a checked call: `direction` is `sampler.sample` or `sampler.to_noise`."""
        denoiser, bound = self._problem(call, left_out)
        return direction(
            denoiser,
            x,
            **bound,
            steps=call.steps if call.steps is not None else call.parameters["num_inference_steps"].default,
            solver=self._solver(call),
            gradient=engine or self.engine,
            state_dtype=self.settings.state_dtype,
            on_adjoint=self.settings.on_adjoint,
            callback=self._callback(call.arguments.get("callback_on_step_end")),
            **self.options,
        )

    def _solver(self, call: Call) -> Solver:
        """A stochastic solver draws by each image's own generator, so that no image depends on its batch."""
        made, seed = call.arguments.get("generator"), getattr(self.solver, "seed", None)
        sources = [made] if isinstance(made, torch.Generator) else made or []
        if not isinstance(seed, int) or len(sources) != call.batch:
            return self.solver
        mixed = [np.random.SeedSequence([seed, source.initial_seed()]).generate_state(1)[0] for source in sources]
        return replace(self.solver, seed=tuple(map(int, mixed)))  # type: ignore[type-var]

    def before_last_step(self, call: Call, x_0: torch.Tensor) -> torch.Tensor:
        """The sample x at the schedule's last time from which a sampler's last step lands on `x_0`.

        That step is x_0 = (x − σ ε̂(x)) / α, so x = α x_0 + σ ε̂(x), a fixed point: σ is small there, and each round
        brings the iterate closer by a factor of about σ.
        """
        denoiser, bound = self._problem(call)
        guided = GuidedDenoiser(denoiser, x=x_0, **{k.replace("guidance_", ""): v for k, v in bound.items()})
        time = torch.tensor(self.schedule.t_end, dtype=torch.float64, device="cpu")
        alpha, sigma = (float(f(time)) for f in (self.schedule.alpha, self.schedule.sigma))
        x = x_0
        for _ in range(ROUNDS):
            x = alpha * x_0 + sigma * guided(x, time).eps
        return x

    def _problem(self, call: Call, left_out: Sequence[torch.nn.Parameter] = ()) -> tuple[Denoiser, dict[str, Any]]:
        self._check_arguments(call)
        guidance = self._guidance(call)
        cond, uncond = self._conditions(call, wanted=isinstance(guidance, torch.Tensor) or guidance != 1)
        denoiser = self.denoiser(call.arguments.get("cross_attention_kwargs"), left_out)
        bound = {"cond": cond, "uncond": uncond, "guidance": guidance}
        if call.arguments.get("guidance_rescale"):
            bound["guidance_rescale"] = call.arguments["guidance_rescale"]
        if self.settings.guidance_interval is not None:
            bound["guidance_interval"] = self.settings.guidance_interval
        return denoiser, bound

    def denoiser(self, cross_attention_kwargs: Any = None, left_out: Sequence[torch.nn.Parameter] = ()) -> Denoiser:
        """The pipeline's network as a denoiser of the ODE road."""
        constant = {} if cross_attention_kwargs is None else {"cross_attention_kwargs": cross_attention_kwargs}
        network = DiffusersNetwork(self.network, constant, left_out)
        return Denoiser(network, self.schedule, self.prediction, branches=self.settings.branches)  # type: ignore[arg-type]

    def _check_arguments(self, call: Call) -> None:
        unread = [name for name in call.arguments if name not in READ]
        if unread:
            raise InvalidInput(f"the ODE road does not read {', '.join(unread)}; leave it out or use the pipeline road")

    def _guidance(self, call: Call) -> Any:
        parameter = call.parameters.get("guidance_scale")
        if parameter is None:
            return 1.0
        return call.arguments.get("guidance_scale", parameter.default)

    def _conditions(self, call: Call, wanted: bool) -> tuple[Any, Any]:
        """Conditioning of the prompts and, if it is wanted, of the negative ones, a row for each image."""
        if not hasattr(self.pipe, "encode_prompt"):
            return None, None
        arguments = call.arguments
        encoded = {name: arguments[name] for name in EMBEDDINGS if arguments.get(name) is not None}
        missing = "prompt_embeds" not in encoded or (wanted and "negative_prompt_embeds" not in encoded)
        if missing:
            encoded = {**self._encoded(call, encoded), **encoded}
        each = arguments.get("num_images_per_prompt") or 1
        encoded = {n: v.repeat_interleave(each, 0) for n, v in encoded.items() if isinstance(v, torch.Tensor)}
        more = (
            {"time_ids": self._time_ids(call)}
            if "pooled_prompt_embeds" in encoded and hasattr(self.pipe, "unet")
            else {}
        )
        positive = conditioning(self.pipe, encoded, False, more)
        return positive, conditioning(self.pipe, encoded, True, more) if wanted else None

    def _encoded(self, call: Call, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        arguments = call.arguments
        rows = len(given["prompt_embeds"]) if given else None
        prompt = arguments.get("prompt") if rows is None else [""] * rows
        more = {
            name: arguments[name] for name in TEXT if name in arguments and name not in ("prompt", "negative_prompt")
        }
        return encode_prompt(self.pipe, prompt, arguments.get("negative_prompt"), warn=False, **more)  # type: ignore[arg-type]

    def _time_ids(self, call: Call) -> torch.Tensor:
        """SDXL's six numbers: original size, crop, target size."""
        factor, side = self.pipe.vae_scale_factor, self.pipe.unet.config.sample_size
        size = (call.arguments.get("height") or side * factor, call.arguments.get("width") or side * factor)
        original, target = (call.arguments.get(name) or size for name in ("original_size", "target_size"))
        crop = call.arguments.get("crops_coords_top_left") or (0, 0)
        return torch.tensor([[*original, *crop, *target]], device=self.pipe._execution_device)

    def _callback(self, user: Any) -> Any:
        if user is None:
            return None

        def callback(node: int, t: float, x: torch.Tensor) -> None:
            changed = user(self.pipe, node - 1, t, {"latents": x})
            if changed and changed.get("latents", x) is not x:
                raise InvalidInput("on the ODE road a callback can watch the latents but not replace them")

        return callback
