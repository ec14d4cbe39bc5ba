"""Parity with diffusers, in the configurations where the two are the same mathematics:

- `DDIMScheduler(clip_sample=False)`: leading spacing; trailing where N divides the training steps.  (Elsewhere DDIM's
  trailing steps go to t - T // N, which is not its next timestep.)  `set_alpha_to_one` True and False.
- `DPMSolverMultistepScheduler` (dpmsolver++, midpoint, order 2): all its spacings, first-order last step, N >= 15.
  Below 15 steps it lowers the order of its last steps in its own way.

Agreement: relative error 1e-5 (the schedulers compute in float32; ours in float64), with eps, v and sample networks.
"""

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from adjointdpm.models import Denoiser
from adjointdpm.sampler import sample
from adjointdpm.schedules import from_scheduler_config, grid_options_from_config, make_grid

BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def net(x: Tensor, t: Tensor, cond: None = None) -> Tensor:
    """A smooth function of state and time, of about unit size; any network would do."""
    t = t.reshape(-1, 1).to(x) / 1000
    return torch.tanh(x * (0.6 + 0.3 * t) + torch.sin(3 * t)) + 0.2 * x.roll(1, dims=1)


def theirs(scheduler: Any, x: Tensor, steps: int) -> Tensor:
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t.expand(len(x))), t, x).prev_sample
    return x


def ours(scheduler: Any, x: Tensor, steps: int, solver: str) -> Tensor:
    schedule, prediction = from_scheduler_config(scheduler)
    grid = make_grid(schedule, steps, **grid_options_from_config(scheduler))
    return sample(Denoiser(net, schedule, prediction), x, grid=grid, solver=solver).x0  # type: ignore[arg-type]


def check(scheduler: Any, steps: int, solver: str) -> None:
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    expected = theirs(scheduler, x, steps)
    assert float((ours(scheduler, x.double(), steps, solver) - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("spacing", "steps"), [("leading", n) for n in (1, 2, 7, 20, 50)] + [("trailing", n) for n in (1, 2, 20, 50)]
)
@pytest.mark.parametrize("alpha_one", [True, False])
def test_ddim(spacing: str, steps: int, prediction: str, alpha_one: bool) -> None:
    scheduler = diffusers.DDIMScheduler(
        **BETAS,
        clip_sample=False,
        timestep_spacing=spacing,
        steps_offset=1,
        set_alpha_to_one=alpha_one,
        prediction_type=prediction,
    )
    check(scheduler, steps, "ddim")


def test_ddim_with_zero_terminal_snr_from_its_second_step() -> None:
    """alpha = 0 at the first node needs the angle form; from the next node on all forms are open."""
    scheduler = diffusers.DDIMScheduler(
        **BETAS, clip_sample=False, rescale_betas_zero_snr=True, prediction_type="v_prediction", steps_offset=0
    )
    check(scheduler, 20, "ddim")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("steps", [15, 20, 31])
def test_dpmsolver_multistep(steps: int, spacing: str, prediction: str) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS, timestep_spacing=spacing, prediction_type=prediction, steps_offset=1
    )
    check(scheduler, steps, "dpmpp2m")


def test_dpmsolver_multistep_that_stops_at_the_first_training_step() -> None:
    check(diffusers.DPMSolverMultistepScheduler(**BETAS, final_sigmas_type="sigma_min"), 20, "dpmpp2m")
    check(diffusers.DPMSolverMultistepScheduler(**BETAS, final_sigmas_type="sigma_min"), 8, "dpmpp2m")
