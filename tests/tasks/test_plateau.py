"""`Plateaus`: each image goes back to its best state and halves its own rate, and no other's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adjointdpm.tasks.plateau import Plateaus


class Valleys:
    """Images of two numbers each, whose losses are `width`-narrow valleys: sum |x| / width beyond a flat floor."""

    def __init__(self, widths: list[float], start: float = 3.0) -> None:
        self.widths = torch.tensor(widths, dtype=torch.float64)
        self.parameters = {"x": nn.Parameter(torch.full((len(widths), 2), start, dtype=torch.float64))}

    def losses(self) -> Tensor:
        return (self.parameters["x"].abs().sum(dim=1) / self.widths).detach()

    def descend(self, steps: int, patience: int, lr: float = 1.0) -> Plateaus:
        plateaus = Plateaus(self.losses, patience)
        optimizer = torch.optim.AdamW(self.parameters.values(), lr=lr, weight_decay=0.0)
        for _ in range(steps):
            optimizer.zero_grad()
            (self.parameters["x"].abs().sum(dim=1) / self.widths).sum().backward()
            plateaus.look(self.parameters)
            plateaus.step(self.parameters, optimizer)
        return plateaus


def test_a_rate_that_is_too_large_comes_down_until_the_valley_is_found() -> None:
    plateaus = Valleys([1.0], start=3.3).descend(60, patience=3)
    assert plateaus.lowest[0] < 0.1  # with a rate of 1 held, Adam swings around 0 by about 1
    assert plateaus.rates[0] < 0.2


def test_best_is_kept_for_each_image() -> None:
    valleys = Valleys([1.0, 0.5], start=3.3)
    plateaus = valleys.descend(40, patience=4)
    found = plateaus.best["x"].abs().sum(dim=1) / valleys.widths
    assert torch.equal(found, plateaus.lowest)
    assert bool((plateaus.lowest <= valleys.losses()).all())


def test_an_image_goes_the_same_way_alone_and_beside_others() -> None:
    alone, beside = Valleys([0.5], start=2.0), Valleys([0.5, 7.0], start=2.0)
    first, second = alone.descend(25, patience=3), beside.descend(25, patience=3)
    assert torch.equal(alone.parameters["x"][0], beside.parameters["x"][0])
    assert first.rates[0] == second.rates[0]


def test_going_back_means_the_best_state_without_its_momentum() -> None:
    parameter = nn.Parameter(torch.tensor([[1.0]]))
    losses = iter([[1.0], [5.0], [6.0]])
    plateaus = Plateaus(lambda: torch.tensor(next(losses)), patience=2)
    optimizer = torch.optim.AdamW([parameter], lr=1.0, weight_decay=0.0)
    for _ in range(3):
        parameter.grad = torch.ones_like(parameter)
        plateaus.look({"x": parameter})
        plateaus.step({"x": parameter}, optimizer)
    assert parameter.tolist() == [[1.0]]
    assert plateaus.rates.tolist() == [0.5]
    assert plateaus.since.tolist() == [0]


def test_a_checkpoint_holds_what_the_next_step_needs() -> None:
    valleys = Valleys([1.0, 0.2], start=3.3)
    plateaus = valleys.descend(7, patience=2)
    copy = Plateaus(valleys.losses, 2)
    copy.restore(plateaus.state(), plateaus.best, valleys.parameters)
    for name in ("lowest", "since", "rates"):
        assert torch.equal(getattr(copy, name), getattr(plateaus, name))
    assert torch.equal(copy.best["x"], plateaus.best["x"])
