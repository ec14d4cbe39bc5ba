"""Grids: evenness in what they promise, diffusers' timesteps, bad input."""

import math

import diffusers
import numpy as np
import pytest
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.schedules import (
    EDM,
    RectifiedFlow,
    VPCosine,
    VPDiscrete,
    VPLinear,
    from_scheduler_config,
    grid_options_from_config,
    make_grid,
)

VP = VPLinear()
DISCRETE = VPDiscrete(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0))


@pytest.mark.parametrize("spacing", ["uniform", "logsnr", "quadratic", "karras"])
@pytest.mark.parametrize("schedule", [VP, EDM(), RectifiedFlow(t_start=0.99), DISCRETE], ids=lambda s: type(s).__name__)
def test_nodes_run_from_noise_to_data(spacing: str, schedule: object) -> None:
    for steps in (1, 2, 7):
        for to_zero in (True, False):
            grid = make_grid(schedule, steps, spacing, to_zero=to_zero)  # type: ignore[arg-type]
            assert grid.steps == steps
            assert grid.ode_steps == steps - to_zero
            assert grid.t.dtype == grid.alpha.dtype == grid.sigma.dtype == torch.float64
            assert bool((grid.t.diff() < 0).all())
            assert float(grid.t[0]) == schedule.t_start  # type: ignore[attr-defined]
            assert (float(grid.sigma[-1]) == 0) == to_zero == grid.to_zero
            if not to_zero or steps > 1:
                assert float(grid.t[-1 - to_zero]) == schedule.t_end  # type: ignore[attr-defined]


def test_each_spacing_is_even_in_its_variable() -> None:
    def even(values: torch.Tensor) -> bool:
        return torch.allclose(values.diff(), values.diff().mean(), rtol=1e-9)

    def of(spacing: str) -> torch.Tensor:
        return make_grid(VP, 9, spacing, t_start=0.9, t_end=0.01, to_zero=False).t  # type: ignore[arg-type]

    assert even(of("uniform"))
    assert even(VP.log_snr(of("logsnr")))
    assert even(of("quadratic").sqrt())
    assert even(VP.rho(of("karras")) ** (1 / 7))
    assert not even(of("karras"))


def test_times_are_not_rounded() -> None:
    t = make_grid(DISCRETE, 7, "logsnr").t[1:-2]
    assert bool(((t - t.round()).abs() > 1e-3).all())


def test_reversed() -> None:
    grid = make_grid(VP, 4, "logsnr", to_zero=False)
    up = grid.reversed()
    assert torch.equal(up.t, grid.t.flip(0))
    assert torch.equal(up.alpha, grid.alpha.flip(0))
    with pytest.raises(InvalidInput, match="to_zero=False"):
        make_grid(VP, 4).reversed()


BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS = ["DDIM", "DDPM", "PNDM", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "EulerDiscrete"]


@pytest.mark.parametrize("steps", [1, 3, 7, 20, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", [*SCHEDULERS, "EulerAncestralDiscrete", "LMSDiscrete"])
def test_diffusers_timesteps(name: str, spacing: str, steps: int) -> None:
    scheduler = getattr(diffusers, f"{name}Scheduler")(
        timestep_spacing=spacing, steps_offset=1, **BETAS, **({"skip_prk_steps": True} if name == "PNDM" else {})
    )
    scheduler.set_timesteps(steps)
    theirs = np.array(scheduler.timesteps.tolist())
    if name == "PNDM":  # its pseudo Runge-Kutta start repeats the second time
        theirs = np.array(scheduler._timesteps[::-1], dtype=float)
    options = grid_options_from_config(scheduler)
    if float(theirs[0]) > 999:  # leading with an offset and one step: diffusers would index beyond the schedule
        with pytest.raises(InvalidInput):
            make_grid(DISCRETE, steps, **options)
        return
    grid = make_grid(DISCRETE, steps, **options)
    np.testing.assert_allclose(grid.t[:-1].numpy(), theirs, atol=1e-4 if spacing == "linspace" else 0)


def test_final_node_follows_the_config() -> None:
    zero = diffusers.DDIMScheduler(set_alpha_to_one=True, clip_sample=False)
    first = diffusers.DDIMScheduler(set_alpha_to_one=False, clip_sample=False, steps_offset=1)
    schedule, _ = from_scheduler_config(zero)
    assert make_grid(schedule, 10, **grid_options_from_config(zero)).to_zero
    grid = make_grid(schedule, 10, **grid_options_from_config(first))
    assert not grid.to_zero
    assert float(grid.t[-1]) == 0.0
    assert float(grid.alpha[-1]) ** 2 == pytest.approx(float(first.final_alpha_cumprod), rel=1e-6)
    dpm = diffusers.DPMSolverMultistepScheduler(final_sigmas_type="sigma_min")
    assert not make_grid(schedule, 10, **grid_options_from_config(dpm)).to_zero


@pytest.mark.parametrize("steps", [0, -1, 2.0, math.nan, True, "3", None])
def test_bad_steps(steps: object) -> None:
    with pytest.raises(InvalidInput, match="steps"):
        make_grid(VP, steps)  # type: ignore[arg-type]


def test_numpy_integers_are_whole_numbers() -> None:
    assert make_grid(VP, np.int64(3)).steps == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"schedule": DISCRETE, "steps": 1001, "spacing": "leading"}, "beyond the schedule"),
        ({"schedule": DISCRETE, "steps": 1001, "spacing": "trailing"}, "beyond the schedule"),
        ({"schedule": DISCRETE, "steps": 10, "spacing": "leading", "t_end": 3.0}, "t_start and t_end"),
        ({"schedule": VP, "steps": 10, "spacing": "leading"}, "VPDiscrete"),
        ({"schedule": VP, "steps": 10, "spacing": "even"}, "unknown"),
        ({"schedule": VP, "steps": 10, "t_end": 0.0}, "times must satisfy"),
        ({"schedule": VP, "steps": 10, "t_start": 1.5}, "times must satisfy"),
        ({"schedule": VP, "steps": 10, "t_start": 0.2, "t_end": 0.3}, "times must satisfy"),
        ({"schedule": VP, "steps": 10, "t_start": math.nan}, "times must satisfy"),
        ({"schedule": VP, "steps": 10, "t_start": torch.ones(2)}, "single times"),
        ({"schedule": RectifiedFlow(), "steps": 10, "spacing": "logsnr"}, "alpha > 0"),
        ({"schedule": VPCosine(), "steps": 10, "spacing": "karras"}, "alpha > 0"),
    ],
)
def test_bad_input(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        make_grid(**arguments)  # type: ignore[arg-type]
