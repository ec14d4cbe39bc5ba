"""Class-conditional models with classifier guidance: the exact gradient contains the guide's second derivative."""

import pytest
import torch
from torch import nn

from adjointdpm.errors import InvalidInput
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks import AuditConfig, run_audit
from adjointdpm.tasks.audit.guided import GuidedDenoiser, GuidedPipeline
from adjointdpm.tasks.audit.painters import ClassPainter
from adjointdpm.tasks.audit.sources import painter_for
from adjointdpm.tasks.audit.subject import as_saved
from tests.tasks.audit.networks import CLASSES, Tiny

SIZE = 16


class Denoiser(nn.Module):
    """(x, t, y) -> six channels, as a network that learns its variance has."""

    def __init__(self):
        super().__init__()
        self.conv, self.label = nn.Conv2d(3, 6, 3, padding=1), nn.Embedding(CLASSES, 6)

    def forward(self, x, t, y):
        return torch.tanh(self.conv(x) + self.label(y)[:, :, None, None] + (t / 1000)[:, None, None, None])


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 49, CLASSES))

    def forward(self, x, t):
        return self.net(x)


def pipeline(scale=5.0):
    from diffusers import DDIMScheduler

    torch.manual_seed(0)
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False, set_alpha_to_one=False)
    guided = GuidedDenoiser(Denoiser(), Guide(), scheduler.alphas_cumprod, scale, size=SIZE)
    pipe = GuidedPipeline(guided.double().eval().requires_grad_(False), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_guided_prediction_is_the_formula():
    guided = pipeline().unet
    x = torch.randn(2, 3, SIZE, SIZE, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    t, y = torch.tensor([500, 20]), torch.tensor([1, 3])
    leaf = x.clone().requires_grad_()
    guided.guide(leaf, t).log_softmax(1).gather(1, y[:, None]).sum().backward()
    sigma = (1 - guided.alphas_cumprod[t]).sqrt()[:, None, None, None]
    expected = guided.denoiser(x, t, y)[:, :3] - 5.0 * sigma * leaf.grad
    assert torch.allclose(guided(x, t, y), expected, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(guided(x, t, y), expected, atol=1e-6)
    guided.scale = 0
    assert torch.allclose(guided(x, t, y), guided.denoiser(x, t, y)[:, :3])


def test_the_gradient_is_plain_backprops_and_the_finite_difference():
    gen = differentiable(pipeline(), wrt=("x_T",))
    x = torch.randn(2, 3, SIZE, SIZE, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    gradients = []
    for generator in (gen, gen.with_(gradient="full")):
        leaf = x.clone().requires_grad_()
        out = generator(class_labels=[1, 3], latents=leaf, num_inference_steps=3)
        assert torch.equal(out.image, out.image_unclamped.clamp(0, 1))
        out.image_unclamped.square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.allclose(*gradients, rtol=1e-9)
    direction = gradients[0] / gradients[0].norm()

    def value(step):
        with torch.no_grad():
            out = gen(class_labels=[1, 3], latents=x + step * direction, num_inference_steps=3)
        return float(out.image_unclamped.square().sum())

    slope = float((gradients[0] * direction).sum())
    assert (value(1e-4) - value(-1e-4)) / 2e-4 == pytest.approx(slope, rel=1e-5)


def test_an_audit_takes_classes_as_prompts(tmp_path):
    gen = differentiable(pipeline())
    config = AuditConfig(out=tmp_path / "run", prompts=("0", "3", "4"), labels=(0,), noises=1, steps=2, iterations=4,
                         taus=(1.0,), batch_size=None, guidance_scale=1.0)  # fmt: skip
    painter = painter_for(gen, config)
    assert isinstance(painter, ClassPainter)
    network = Tiny().double().requires_grad_(False)
    with torch.no_grad():
        images = as_saved(painter.generate(*painter.encode(config.prompts), [0, 1, 2]).image_unclamped)
    labels = tuple(network(images).argmax(1).tolist())
    result = run_audit(config.model_copy(update={"labels": labels}), gen, network=network,
                       judge=lambda x: torch.ones(len(x), dtype=torch.bool))  # fmt: skip
    assert result.results["n"] == 3
    assert result.results["methods"]["exact"]["rates"][0]["share"] > 0
    with pytest.raises(InvalidInput, match=r"'cat'.*expected the number of a class"):
        painter.encode(["cat"])
    discreet = painter_for(gen, config.model_copy(update={"mode": "filter"}))
    with pytest.raises(InvalidInput, match=r"\(not shown\): .*expected the number of a class") as raised:
        discreet.encode(["cat"])
    assert "cat" not in str(raised.value)


def test_pipelines_without_words_and_classes_are_refused(tmp_path):
    from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

    unet = UNet2DModel(sample_size=8, block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2,
                       up_block_types=("UpBlock2D",) * 2, norm_num_groups=4, layers_per_block=1)  # fmt: skip
    gen = differentiable(DDPMPipeline(unet.eval(), DDIMScheduler()))
    with pytest.raises(InvalidInput, match="takes neither prompts nor class_labels"):
        run_audit(AuditConfig(out=tmp_path / "run", prompts=("0",), labels=(0,)), gen, network=Tiny())
    assert not (tmp_path / "run").exists()
