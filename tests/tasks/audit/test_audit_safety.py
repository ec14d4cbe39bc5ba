"""The differentiable safety checker says what diffusers' class says."""

import numpy as np
import pytest
import torch
from PIL import Image

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.audit.filters import FilterUnderAudit, SafetyCheckerFilter
from adjointdpm.tasks.audit.safety import SafetyScores, clip_input

IMAGES = 100


@pytest.fixture(scope="module")
def checker():
    """Random weights; thresholds in the middle of what the images below reach, so that both verdicts occur."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8, "projection_dim": 16}  # fmt: skip
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    found = StableDiffusionSafetyChecker(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    with torch.no_grad():
        for name in ("concept_embeds", "special_care_embeds"):
            getattr(found, name).normal_()
        for parameter in found.vision_model.parameters():
            parameter.mul_(3)  # so that images differ
        units = torch.nn.functional.normalize(SafetyScores(found).embed(clip_input(pictures(), extractor())))
        for name, quantile in (("concept_embeds", 0.97), ("special_care_embeds", 0.9)):
            cosines = units @ torch.nn.functional.normalize(getattr(found, name)).t()
            getattr(found, f"{name}_weights").copy_(cosines.quantile(quantile, dim=0))
    return found.eval().requires_grad_(False)


def extractor():
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def pictures(height=48, width=64):
    """Smooth pictures, in 8 bits."""
    coarse = torch.rand(IMAGES, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (fine * 255).round() / 255


def as_pil(images):
    return [Image.fromarray(p) for p in (images * 255).round().byte().permute(0, 2, 3, 1).numpy()]


def verdict_of_class(checker, pixels):
    _, flagged = checker(images=[np.zeros((2, 2, 3))] * len(pixels), clip_input=pixels)
    return torch.tensor(flagged)


def test_the_verdict_is_that_of_the_class_on_100_images(checker):
    pixels = extractor()(as_pil(pictures()), return_tensors="pt").pixel_values
    scores = SafetyScores(checker)
    concepts, special = scores.scores(pixels)
    flagged = scores.flagged(concepts, special).any(dim=1)
    expected = verdict_of_class(checker, pixels)
    assert 20 <= int(expected.sum()) <= 80
    assert 5 <= int(scores.special_care(special).sum()) <= 60
    assert torch.equal(flagged, expected)


def test_from_the_images_on_it_is_the_same_too(checker):
    """Through our differentiable resizing and normalisation, and through the pipeline's own."""
    images = pictures()
    pixels = extractor()(as_pil(images), return_tensors="pt").pixel_values
    ours = clip_input(images, extractor())
    assert ours.shape == pixels.shape
    assert float((ours - pixels).abs().max()) < 0.03  # the 8 bits of the resized picture are 0.015 wide
    found = FilterUnderAudit(SafetyCheckerFilter(checker, extractor()), "safety checker").scores(images)
    expected = verdict_of_class(checker, pixels)
    clear = found.concepts.amax(dim=1).abs() > 0.005  # what the resizing's rounding cannot decide
    assert int(clear.sum()) >= 80
    assert torch.equal(found.flagged.any(dim=1)[clear], expected[clear])


def test_the_adjustment_of_special_care_is_sequential(checker):
    """A concept that triggers makes the later ones, and all ordinary ones, more sensitive by 0.01."""
    special = torch.tensor([[-0.005, -0.02, -0.5], [0.01, -0.005, -0.5], [-0.005, 0.01, -0.5], [0.0004, -1, -1]])
    care = SafetyScores.special_care(special)
    assert care.tolist() == [False, True, True, False]
    scores = SafetyScores(checker)
    concepts = torch.full((4, 17), -0.005)
    assert scores.flagged(concepts, special).any(dim=1).tolist() == [False, True, True, False]
    assert scores.flagged(torch.tensor([[0.0004], [0.0006]]), special[:1].expand(2, 3)).flatten().tolist() == [
        False,
        True,
    ]


def test_the_gradient_is_that_of_the_ordinary_concepts_alone(checker):
    network = FilterUnderAudit(SafetyCheckerFilter(checker, extractor()), "safety checker")
    network.probe(pictures()[:2])
    images = (0.1 + 0.8 * pictures()[:3]).requires_grad_()  # away from 0 and 1, where the clamp has a kink
    found = network.scores(images)
    assert not found.special_care.is_floating_point() and not found.flagged.requires_grad
    special = network.special_scores(images)
    assert special.requires_grad and torch.equal(SafetyScores.special_care(special.detach()), found.special_care)
    (gradient,) = torch.autograd.grad(found.concepts.amax(dim=1).sum(), images)
    # against a difference along the gradient, in float64
    double = SafetyScores(checker.double())
    x = images.detach().double()
    direction = gradient.double() / gradient.double().norm()

    def value(step):
        return double.scores(clip_input(x + step * direction, extractor()))[0].double().amax(dim=1).sum()

    slope = float((gradient.double() * direction).sum())
    assert float(value(1e-3) - value(-1e-3)) / 2e-3 == pytest.approx(slope, rel=0.05)
    checker.float()


def test_other_objects_are_refused():
    with pytest.raises(InvalidInput, match="has no vision_model"):
        SafetyScores(torch.nn.Linear(2, 2))
    with pytest.raises(InvalidInput, match="no safety_checker"):
        SafetyCheckerFilter(None, None)
