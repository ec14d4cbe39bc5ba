"""Learn where a sampler's steps should lie: gradients to the times themselves (the paper's eq. 12, last row).

Six steps of Euler (= DDIM) on a mixture of Gaussians with a closed-form denoiser.  The times between the first and the
last are free; the loss is the distance of the samples to those of a converged solve from the same noise.  The learnt
grid is then tried on noise that it never saw.  Run: python examples/learn_a_grid.py
"""

import torch
from torch import Tensor

import adjointdpm as ad
from adjointdpm.schedules import Grid, VPLinear, make_grid

SCHEDULE, STEPS = VPLinear(), 6
START, END = 0.99, 1e-3
MEANS = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]], dtype=torch.float64)
WIDTH = 0.3


def eps(x: Tensor, t: Tensor, cond: None = None) -> Tensor:
    """The best prediction of the noise in x (B, 2) at time t (B,): that of three Gaussians of width 0.3."""
    alpha, sigma = (v[:, None] for v in (SCHEDULE.alpha(t), SCHEDULE.sigma(t)))
    spread = alpha**2 * WIDTH**2 + sigma**2
    offset = x[:, None] - alpha[..., None] * MEANS
    share = torch.softmax(-offset.square().sum(-1) / (2 * spread), dim=1)
    return (share[..., None] * offset).sum(1) * sigma / spread


def grid_of(gaps: Tensor) -> Grid:
    """Times from START to END whose log-SNR differences are in the ratio exp(gaps) (STEPS,)."""
    ends = SCHEDULE.log_snr(torch.tensor([START, END], dtype=torch.float64))
    way = torch.cat([torch.zeros(1, dtype=torch.float64), torch.softmax(gaps, 0).cumsum(0)[:-1]])
    t = torch.cat([SCHEDULE.t_of_log_snr(ends[0] + way * (ends[1] - ends[0])), torch.tensor([END]).double()])
    return Grid(t, SCHEDULE.alpha(t), SCHEDULE.sigma(t))


def samples(x_T: Tensor, grid: Grid, solver: str = "euler") -> Tensor:
    return ad.sample(ad.Denoiser(eps, SCHEDULE, dtype=torch.float64), x_T, grid=grid, solver=solver).x0


def noise(seed: int, count: int = 512) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def converged(x_T: Tensor) -> Tensor:
    return samples(x_T, make_grid(SCHEDULE, 200, "logsnr", START, END, to_zero=False), "rk4")


def error(x_T: Tensor, want: Tensor, grid: Grid) -> Tensor:
    """Root mean square distance of the samples to the converged ones from the same noise."""
    return (samples(x_T, grid) - want).square().sum(1).mean().sqrt()


def main(rounds: int = 150) -> None:
    gaps = torch.zeros(STEPS, dtype=torch.float64, requires_grad=True)  # equal steps in log-SNR to begin with
    optimizer = torch.optim.Adam([gaps], lr=0.03)
    seen, unseen = ((x_T, converged(x_T)) for x_T in (noise(0), noise(1)))
    for _ in range(rounds):
        loss = error(*seen, grid_of(gaps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for name, grid in (
            *((s, make_grid(SCHEDULE, STEPS, s, START, END, to_zero=False)) for s in ("uniform", "karras", "logsnr")),
            ("learnt", grid_of(gaps)),
        ):
            times = " ".join(f"{t:.3f}" for t in grid.t.tolist())
            print(f"{name:8s} error on unseen noise {float(error(*unseen, grid)):.4f}   times {times}")


if __name__ == "__main__":
    main()
