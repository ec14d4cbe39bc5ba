"""Noise that a pipeline packs, as Flux does."""

import pytest
import torch
from diffusers import FluxPipeline

from adjointdpm.errors import InvalidInput
from adjointdpm.pipelines import differentiable
from adjointdpm.runs import load_tensors
from adjointdpm.tasks import RewardConfig, maximise_reward
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.grid import as_grid, laid_out_as
from adjointdpm.tasks.guide.run import guide_images
from adjointdpm.tasks.guide.start import moved
from adjointdpm.tasks.guide.typicality import deviance
from tests.support.tiny_flux import tiny_flux


@pytest.fixture(scope="module")
def gen():
    return differentiable(tiny_flux())


def test_cells_are_where_flux_has_them():
    grid = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    packed = FluxPipeline._pack_latents(grid, 3, 4, 8, 8)
    assert packed.shape == (3, 16, 16)
    assert torch.equal(as_grid(packed), grid)
    assert torch.equal(laid_out_as(packed, grid), packed)
    assert as_grid(grid) is laid_out_as(grid, grid) is grid


def test_packed_noise_moves_and_is_judged_in_the_plane():
    grid = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    packed = laid_out_as(torch.empty(2, 16, 16), grid)
    steps = [(3, -1), (0, 2)]
    assert torch.equal(as_grid(moved(packed, steps)), moved(grid, steps))
    assert torch.equal(deviance(packed), deviance(grid))


@pytest.mark.parametrize("shape", [(1, 6, 16), (1, 16, 6), (1, 4, 2, 8, 8), (1, 16)])
def test_another_layout_is_refused(shape):
    with pytest.raises(InvalidInput, match="a layout of its own"):
        as_grid(torch.zeros(shape))


def test_flux_is_guided_and_its_noise_gives_the_image_in_plain_diffusers(gen, tmp_path):
    config = GuideConfig(
        out=tmp_path / "run", prompts=("red apple",), seeds=(1,), box=(0, 0, 8, 8), blend=(0.5,), updates=3, steps=2
    )
    result = guide_images(config, gen)
    start = load_tensors(result.folder / "start.safetensors")[0]
    assert start["noise"].shape == result.noise.shape == (1, 16, 16)
    (case,) = result.record["results"]["cases"]
    assert case["loss"][1] < case["loss"][0]
    latents = load_tensors(result.folder / case["noise_file"])[0]["latents"]
    image = gen.pipe("red apple", latents=latents, num_inference_steps=2, guidance_scale=3.0, output_type="pt").images
    assert float((image - result.images).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("run", "cls", "changes"),
    [(guide_images, GuideConfig, {"size": 0.3, "updates": 1}), (maximise_reward, RewardConfig, {"epochs": 1})],
)
def test_an_embedding_that_flux_cannot_paint_is_refused_and_nothing_is_written(gen, tmp_path, run, cls, changes):
    config = cls(out=tmp_path / "run", prompts=("red apple",), optimise="embedding", steps=2, **changes)
    with pytest.raises(InvalidInput, match="FluxPipeline takes pooled_prompt_embeds as well"):
        run(config, gen)
    assert not config.out.exists()
