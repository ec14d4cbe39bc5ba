"""`check_gradients` on a real pipeline of toy size: both roads, every engine, everything differentiated."""

import pytest
import torch

import adjointdpm as ad
from tests.pipelines.tiny import stable_diffusion

ENGINES = ["exact", "adjoint:paper"]
WRT = {"x_T", "cond", "guidance", "weights"}


def test_pipeline_road() -> None:
    pipe = stable_diffusion()
    before = {name: p.detach().clone() for name, p in pipe.unet.named_parameters()}
    report = ad.check_gradients(ad.differentiable(pipe), "a red apple", steps=6, directions=0, engines=ENGINES)
    assert report.ok, report.table()
    exact = {row.wrt: row.rel_error for row in report.rows if row.engine == "exact"}
    assert set(exact) == WRT
    assert max(exact.values()) <= 1e-6, report.table()
    assert {row.engine for row in report.rows} == set(ENGINES)
    paper = [row for row in report.rows if row.engine == "adjoint:paper"]
    assert all("did not converge" in row.note for row in paper), report.table()
    assert 0 < report.rows[0].peak_mb < report.facts["plain_backprop_mb"]
    assert all(torch.equal(p, before[name]) for name, p in pipe.unet.named_parameters())
    assert not any(p.requires_grad for p in pipe.unet.parameters())


def test_pipeline_road_is_differenced_with_a_noise_of_its_own() -> None:
    gen = ad.differentiable(stable_diffusion())
    report = ad.check_gradients(gen, "a cat", steps=2, engines=["exact"], wrt=["x_T"], directions=2, meter=False)
    (row,) = (row for row in report.rows if row.against == "finite difference")
    assert report.ok, report.table()
    assert row.rel_error < 1e-2
    assert 0 < row.noise < 1e-2


def test_ode_road_is_differenced_in_float64() -> None:
    pipe = stable_diffusion()
    before = {name: p.detach().clone() for name, p in pipe.unet.named_parameters()}
    gen = ad.differentiable(pipe, solver="heun")
    report = ad.check_gradients(gen, "a red apple", steps=2, engines=["exact"], directions=1, meter=False)
    assert report.ok, report.table()
    differences = {row.wrt: row.rel_error for row in report.rows if row.against == "finite difference"}
    assert set(differences) == WRT
    assert max(differences.values()) < 1e-7, report.table()
    assert all(p.dtype == torch.float32 and torch.equal(p, before[n]) for n, p in pipe.unet.named_parameters())


def test_a_loop_of_ones_own_is_left_to_pytorch_semantics() -> None:
    """A user's metric on the image, with a mistake that cuts the conditioning off, is found out."""
    gen = ad.differentiable(stable_diffusion(), wrt=("cond",))
    embeds, _ = gen.encode_prompt("a cat")
    latents = gen.prepare_latents(1, 0)

    def metric(embeds: torch.Tensor, cut: bool) -> torch.Tensor:
        used = embeds.detach() + 0.5 * (embeds - embeds.detach()) if cut else embeds
        out = gen(prompt_embeds=used, latents=latents, num_inference_steps=2, guidance_scale=1.0)
        return out.image_unclamped.double().square().mean()

    assert ad.check_gradients(lambda e: metric(e, False), embeds, directions=1, meter=False).ok
    report = ad.check_gradients(lambda e: metric(e, True), embeds, directions=1, meter=False)
    assert not report.ok
    assert report.rows[0].rel_error == pytest.approx(0.5, abs=0.1)
