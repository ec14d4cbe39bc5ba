"""`check_generator` on a stand-in generator: which road and engine are held against what, and what is reported."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput, NotDifferentiable, UnreachedGradient
from adjointdpm.gradients.check import check_gradients
from adjointdpm.gradients.check_generator import check_generator, is_generator


class Biased(torch.autograd.Function):
    """The identity with a gradient that is off by a factor: a stand-in for an approximate engine."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * ctx.factor, None


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.text = nn.Conv2d(3, 3, 3, padding=1).double(), nn.Linear(4, 3).double()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.conv(x).tanh() + self.text(cond).mean(1)[..., None, None]


class StandIn:
    """A generator as `ad.differentiable` returns it, of a few lines; remembers how it was asked."""

    def __init__(self, log: list[dict[str, Any]], **settings: Any) -> None:
        self.log, self.settings = log, {"gradient": "exact", "road": "pipeline", "net": None} | settings
        self.settings["net"] = self.settings["net"] or Denoiser()
        self.pipe = SimpleNamespace(unet=self.settings["net"])
        self.road = "ode" if "solver" in settings else self.settings["road"]

    def with_(self, **changes: Any) -> "StandIn":
        return StandIn(self.log, **(self.settings | changes))

    def encode_prompt(self, prompt: str, negative: str | None = None) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(len(prompt))
        return torch.randn(1, 2, 4, generator=g, dtype=torch.float64), torch.zeros(1, 2, 4, dtype=torch.float64)

    def prepare_latents(self, batch: int, seed: int, height: int | None = None, width: int | None = None) -> Tensor:
        return torch.randn(
            batch, 3, height or 4, width or 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )

    def __call__(
        self, *, latents: Tensor, prompt_embeds: Tensor, num_inference_steps: int,
        guidance_scale: Tensor | float, negative_prompt_embeds: Tensor | None = None, **other: Any,
    ) -> SimpleNamespace:  # fmt: skip
        gradient = self.settings["gradient"]
        name = gradient if isinstance(gradient, str) else gradient.name.replace("adjoint", "adjoint:paper")
        self.log.append(
            {"road": self.road, "gradient": name, "steps": num_inference_steps, "wrt": self.settings.get("wrt")}
        )
        if self.settings.get("refuses") == name:
            raise NotDifferentiable("no gradient here")
        x, net = latents, self.pipe.unet
        for _ in range(num_inference_steps):
            eps = net(x, prompt_embeds)
            if negative_prompt_embeds is not None:
                empty = net(x, negative_prompt_embeds)
                eps = empty + guidance_scale * (eps - empty)
            x = x - eps / num_inference_steps
        factor = {"full": 1.0, "reversible": 1.0, "exact": self.settings.get("exact_factor", 1.0)}.get(name, 1.1)
        if name in ("truncated", "random_truncation") and latents.requires_grad:
            raise UnreachedGradient("x_T would get zero")
        if self.settings.get("on_adjoint"):
            x.register_hook(lambda a: self.settings["on_adjoint"](num_inference_steps, a))
        image = Biased.apply(x, factor)
        return SimpleNamespace(image_unclamped=image, image=image.clamp(0, 1))


def test_each_engine_meets_plain_backprop_of_its_road() -> None:
    log: list[dict[str, Any]] = []
    gen = StandIn(log)
    assert is_generator(gen)
    report = check_gradients(gen, "a red apple", steps=4)
    assert report.ok, report.table()
    rows = {(row.engine, row.wrt): row for row in report.rows}
    for wrt in ("x_T", "cond", "guidance", "weights"):
        assert rows["exact", wrt].rel_error == 0.0
        assert rows["adjoint", wrt].rel_error == pytest.approx(0.1)
        assert rows["adjoint:paper", wrt].against == "plain backprop (ode road)"
        assert rows["gradient", wrt].rel_error < 1e-6
        assert rows["gradient", wrt].against == "finite difference"
    biased = ("truncated", "random_truncation", "one_step")
    assert {(entry["road"], entry["gradient"]) for entry in log} == {
        ("pipeline", "full"), ("pipeline", "exact"), ("ode", "full"), ("ode", "reversible"), ("ode", "adjoint"),
        ("ode", "adjoint:paper"), *(("ode", name) for name in biased),
    }  # fmt: skip
    assert rows["reversible", "x_T"].against == "plain backprop (ode, belm road)"
    assert ("truncated", "x_T") not in rows
    assert ("one_step", "x_T") in rows
    assert report.profiles["adjoint"] == {4: pytest.approx(0.1)}
    assert "exact" not in report.profiles  # the pipeline road has no nodes
    assert "adjoint, error per step from the image back: 1e-01" in report.table()
    assert all(entry["wrt"] == ("x_T", "cond", "guidance", "weights") for entry in log)
    assert 0 < report.facts["saturated_share"] < 1
    assert report.facts["steps"] == 4
    assert "adjoint is an approximation: 1.0e-01 off for" in report.verdict
    assert "the right direction, the wrong length" in report.verdict
    assert set(json.loads(json.dumps(report.as_dict(), allow_nan=False))["results"][0]) >= {
        "engine", "wrt", "rel_error", "cosine", "seconds", "peak_mb"
    }  # fmt: skip


def test_a_wrong_exact_engine_fails() -> None:
    report = check_generator(StandIn([], exact_factor=1.001), "word", steps=2, engines=["exact"])
    assert not report.ok
    assert "exact differs from plain backprop" in report.verdict


def test_fewer_steps_where_plain_backprop_would_not_fit() -> None:
    log: list[dict[str, Any]] = []
    report = check_generator(StandIn(log), "word", steps=50, engines=["exact"], directions=0, memory=20_000.0)
    assert report.facts["steps_asked"] == 50
    assert report.facts["steps"] < 50
    assert log[-1]["steps"] == report.facts["steps"]
    assert "steps instead" in report.verdict
    assert report.ok


def test_no_guidance_no_guidance_gradient() -> None:
    report = check_generator(StandIn([]), steps=2, engines=["exact"], guidance_scale=1.0, directions=0)
    assert {row.wrt for row in report.rows} == {"x_T", "cond", "weights"}


def test_an_engine_that_refuses_is_named_and_the_others_run() -> None:
    report = check_generator(
        StandIn([], refuses="adjoint"), "word", steps=2, engines=["adjoint", "exact"], directions=0
    )
    assert not report.ok
    assert "adjoint could not run: no gradient here" in report.verdict
    assert {row.engine for row in report.rows} == {"exact"}


def test_weights_require_grad_as_before_afterwards() -> None:
    gen = StandIn([])
    gen.pipe.unet.text.requires_grad_(False)
    check_generator(gen, "word", steps=2, engines=["exact"], directions=1)
    assert [p.requires_grad for p in gen.pipe.unet.parameters()] == [True, True, False, False]
    assert all(p.grad is None for p in gen.pipe.unet.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "2.5"),
        ({"engines": ["magic"]}, "magic"),
        ({"wrt": ["y"]}, "wrt"),
        ({"directions": -1}, "-1"),
    ],
)
def test_bad_settings(change: dict[str, Any], words: str) -> None:
    log: list[dict[str, Any]] = []
    with pytest.raises(InvalidInput, match=words):
        check_generator(StandIn(log), "word", **change)
    assert log == []


def test_arguments_of_functions_are_refused_for_generators() -> None:
    with pytest.raises(InvalidInput, match="reference"):
        check_gradients(StandIn([]), "word", reference=lambda: 0)
    with pytest.raises(InvalidInput, match="prompt"):
        check_gradients(StandIn([]), torch.ones(2))
