"""Safety checker and watermark on what is shown; images turned back into noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil

import adjointdpm as ad
from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.numerics import relative_error
from adjointdpm.pipelines import inversion_settings
from adjointdpm.pipelines.images import load_images
from adjointdpm.pipelines.inputs import check_call
from adjointdpm.pipelines.ode_road import OdeRoad
from adjointdpm.pipelines.settings import Settings
from tests.pipelines import tiny


def checked_pipeline(concern: float) -> Any:
    """Stable Diffusion with its real safety checker, at toy size; it flags everything if `concern` is below -1."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 8,
    }
    vision["patch_size"] = 4
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    checker.concept_embeds_weights.data.fill_(concern)
    checker.special_care_embeds_weights.data.fill_(2.0)
    extractor = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    return tiny.stable_diffusion(safety_checker=checker, feature_extractor=extractor, requires_safety_checker=True)


def test_safety_checker_judges_a_copy_and_blackens_what_is_shown() -> None:
    z = torch.randn(1, 4, 8, 8).requires_grad_()
    call = {"latents": z, "num_inference_steps": 2}
    pipe = checked_pipeline(-2.0)
    for road in ({}, {"solver": "euler"}):
        out = ad.differentiable(pipe, **road)("a cat", **call)
        assert out.stats.safety == [True]
        assert float(out.image.detach().max()) > 0
        assert not np.asarray(out.pil()[0]).any()
        out.image.mean().backward()
        assert float(z.grad.norm()) > 0
    assert pipe.safety_checker is not None
    fine = ad.differentiable(checked_pipeline(2.0))("a cat", **call)
    assert fine.stats.safety == [False]
    assert np.asarray(fine.pil()[0]).any()
    assert ad.differentiable(tiny.stable_diffusion())("a cat", **call).stats.safety is None


def test_watermark_is_put_on_what_is_shown() -> None:
    class Watermark:
        def apply_watermark(self, images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(images.numpy() * 0 + 1)  # leaves torch, as the real one does

    pipe = tiny.stable_diffusion_xl()
    pipe.watermark = Watermark()
    z = torch.randn(1, 4, 8, 8).requires_grad_()
    out = ad.differentiable(pipe)("a cat", latents=z, num_inference_steps=1)
    assert (np.asarray(out.pil()[0]) == 255).all()
    assert float(out.image.detach().min()) < 1
    out.image.mean().backward()
    assert z.grad is not None


@pytest.mark.parametrize("road", [{}, {"solver": "rk4"}], ids=["pipeline", "ode"])
def test_inversion_finds_noise_that_gives_the_image_again(road: dict[str, Any]) -> None:
    pipe = tiny.stable_diffusion()
    gen = ad.differentiable(pipe, **road)
    with torch.no_grad():
        pipe.unet.conv_out.weight *= 0.1  # a mild network: what is measured is the solver, not chaos
        picture = gen("a cat", seed=0, num_inference_steps=2).image
    steps = 8 if road else 24
    found = ad.invert_image(gen, picture, prompt="a cat", num_inference_steps=steps)
    assert found.latents.shape == (1, 4, 8, 8)
    assert not found.latents.requires_grad
    assert found.psnr[0] > found.autoencoder_psnr[0] - 1
    again = (gen if road else gen.with_(**inversion_settings(gen)))(
        "a cat", latents=found.latents, num_inference_steps=steps, guidance_scale=1.0
    )
    assert torch.equal(again.image, found.image)


def test_inversion_in_pixel_space() -> None:
    pipe = tiny.unconditional()
    pipe.unet.conv_out.weight.data *= 0.1
    gen = ad.differentiable(pipe, solver="rk4")
    target = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = ad.invert_image(gen, target, num_inference_steps=6)
    assert min(found.psnr) > 45
    assert min(found.autoencoder_psnr) > 100  # there is none


def test_the_last_step_of_a_sampler_is_undone() -> None:
    road = OdeRoad(tiny.unconditional(), Settings(solver="euler"))
    call = check_call(road.pipe, type(road.pipe).__call__, {"batch_size": 1, "num_inference_steps": 1})
    clean = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = road.before_last_step(call, clean)
        landed = road.denoiser()(before, road.schedule.t_end).x0
    assert float((before - clean).norm()) > 1e-3
    assert relative_error(landed, clean) < 1e-5


def test_images_of_every_kind(tmp_path: Path) -> None:
    values = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    rgb = Image.fromarray(values)
    expected = torch.from_numpy(values / np.float32(255)).permute(2, 0, 1)[None]
    rgb.save(tmp_path / "plain.png")
    torch.testing.assert_close(load_images(tmp_path / "plain.png", 16, 16), expected)
    assert load_images([rgb, str(tmp_path / "plain.png")], 16, 16).shape == (2, 3, 16, 16)
    assert load_images(rgb.convert("L"), 16, 16).shape == (1, 3, 16, 16)
    assert load_images(rgb.convert("CMYK"), 16, 16).shape == (1, 3, 16, 16)
    deep = Image.fromarray((np.full((16, 16), 32768)).astype(np.uint16))
    assert abs(float(load_images(deep, 16, 16).mean()) - 0.5) < 0.01
    with pytest.warns(InputWarning, match="laid on white"):
        clear = load_images(Image.new("RGBA", (16, 16), (0, 0, 0, 0)), 16, 16)
    assert float(clear.min()) == 1
    with pytest.warns(InputWarning, match="32 × 20: cropped in the middle and resized to 16 × 16"):
        load_images(Image.new("RGB", (32, 20)), 16, 16)
    rgb.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    with pytest.warns(InputWarning, match="animated"):
        load_images(tmp_path / "moving.gif", 16, 16)


def test_images_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (40, 40)).save(tmp_path / "large.png")
    cases: list[tuple[Any, str]] = [
        (tmp_path / "absent.png", "there is no image file"),
        (tmp_path / "broken.png", "no readable image"),
        (torch.zeros(3, 8, 8), r"expected floats \(B, 3, 16, 16\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "torch.uint8"),
        (torch.full((1, 3, 16, 16), 255.0), "from 255 to 255"),
        (torch.full((1, 3, 16, 16), float("nan")), "expected finite"),
        ([], "the list of images is empty"),
        (7, "got int"),
    ]
    for image, message in cases:
        with pytest.raises(InvalidInput, match=message):
            load_images(image, 16, 16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InvalidInput, match="no readable image"):
        load_images(tmp_path / "large.png", 16, 16)
