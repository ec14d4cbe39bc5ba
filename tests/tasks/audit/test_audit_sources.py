"""Gradients of the noise: exact ones are plain backprop's, the others are what they are called, and all are counted."""

import pytest
import torch

from adjointdpm.errors import NonFinite
from adjointdpm.numerics import relative_error
from adjointdpm.tasks.audit.network import ClassifierUnderAudit
from adjointdpm.tasks.audit.samples import Sample
from adjointdpm.tasks.audit.sources import Look, Scene, calls_of, make_source, painter_for, require_finite
from adjointdpm.tasks.audit.subject import ClassifierSubject, as_saved
from tests.tasks.audit.conftest import PROMPTS
from tests.tasks.audit.networks import Tiny

STEPS = 4


@pytest.fixture(scope="module")
def subject():
    network = ClassifierUnderAudit(Tiny().double().requires_grad_(False), "tiny", "logits")
    return ClassifierSubject(network, "cross_entropy")


def scene_of(painter, count=2):
    samples = [Sample(i, PROMPTS[i], i, label=i) for i in range(count)]
    embeds, negative = painter.encode([s.prompt for s in samples])
    return Scene(samples, embeds, negative, painter.noise([s.seed for s in samples]).to(embeds.dtype))


def source_of(name, generator, settings, subject):
    painter = painter_for(generator, settings(steps=STEPS))
    return make_source(name, painter, subject), scene_of(painter)


def test_a_picture_is_rounded_as_a_file_and_its_gradient_passes():
    x = torch.tensor([-0.5, 0.2, 0.50001, 1.7], requires_grad=True)
    found = as_saved(x)
    assert torch.equal(found, (torch.tensor([0.0, 51.0, 128.0, 255.0]) / 255))
    found.sum().backward()
    assert torch.equal(x.grad, torch.ones(4))


@pytest.mark.parametrize("road", [{}, {"solver": "ab4"}])
def test_exact_gradients_are_those_of_plain_backprop(exact_gen, settings, subject, road):
    source, scene = source_of("exact", exact_gen.with_(**road), settings, subject)
    full, _ = source_of("exact", exact_gen.with_(**road, gradient="full"), settings, subject)
    ours, theirs = source.climb(scene, scene.noise), full.climb(scene, scene.noise)
    assert relative_error(ours.gradient, theirs.gradient) < 1e-9
    assert torch.equal(ours.loss, theirs.loss) and float(ours.gradient.norm()) > 0
    assert ours.calls == STEPS + (STEPS - 1) + STEPS + 1 - ("solver" in road)  # the decoder's product on this road
    plain = source.look(scene, scene.noise)
    assert torch.equal(plain.loss, ours.loss) and torch.equal(plain.image, ours.image)
    assert (plain.calls, plain.gradient) == (STEPS, None)


def test_the_loss_is_that_of_the_saved_picture(gen, settings, subject):
    source, scene = source_of("exact", gen, settings, subject)
    look = source.look(scene, scene.noise)
    levels = look.image * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    again = subject.opinion(look.image, scene.samples)
    assert torch.allclose(again.loss.float(), look.loss, atol=1e-5)
    assert torch.equal(again.changed, look.changed)


def test_a_row_does_not_see_the_others(exact_gen, settings, subject):
    source, scene = source_of("exact", exact_gen, settings, subject)
    together = source.climb(scene, scene.noise)
    for i in range(2):
        alone = source.climb(scene.rows([i]), scene.noise[[i]])
        assert relative_error(alone.gradient, together.gradient[[i]]) < 1e-9
        assert torch.allclose(alone.margin, together.margin[[i]])


def test_one_step_by_hand_is_the_derivative_of_the_first_guess(exact_gen, settings, subject):
    """The loss at the true image, pulled back through the decoder and x_0-hat of the first node alone."""
    source, scene = source_of("one_step", exact_gen, settings, subject)
    look = source.climb(scene, scene.noise)
    assert look.calls == STEPS + 2
    pipe, painter = exact_gen.pipe, source.painter
    with torch.no_grad():
        end = painter.generate(scene.embeds, scene.negative, scene.noise)
    latents = end.latents.detach().requires_grad_()
    image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0] * 0.5 + 0.5
    assert relative_error(image.detach(), end.image_unclamped) < 1e-9
    subject.opinion(as_saved(image), scene.samples).loss.sum().backward()
    x = scene.noise.clone().requires_grad_()
    t = pipe.scheduler.config.num_train_timesteps - 1
    alpha = pipe.scheduler.alphas_cumprod[t].double()
    both = torch.cat([scene.negative, scene.embeds])
    v = pipe.unet(torch.cat([x, x]), torch.tensor(t), both).sample
    unguided, guided = v.chunk(2)
    v = unguided + painter.config.guidance_scale * (guided - unguided)
    guess = alpha.sqrt() * x - (1 - alpha).sqrt() * v
    (expected,) = torch.autograd.grad(guess, x, latents.grad)
    assert relative_error(look.gradient, expected) < 1e-6
    assert float((look.gradient - source_of("exact", exact_gen, settings, subject)[0].climb(
        scene, scene.noise).gradient).norm()) > 1e-3 * float(expected.norm())  # fmt: skip


def test_one_step_of_both_roads_is_the_same_on_the_same_sampler(exact_gen, settings, subject):
    """The engine of the ODE road, and the same by hand where the sampler is that ODE's."""
    generator = exact_gen.with_(solver="euler", spacing="trailing")
    engine, scene = source_of("one_step", generator, settings, subject)
    painter = engine.painter.twin(generator, ("x_T",))
    from adjointdpm.tasks.audit.sources import OneStepByHand

    by_hand = OneStepByHand(painter, subject)
    one, other = engine.climb(scene, scene.noise), by_hand.climb(scene, scene.noise)
    assert relative_error(one.gradient, other.gradient) < 1e-6
    assert abs(one.calls - other.calls) <= 1


@pytest.mark.parametrize("road", [{}, {"solver": "ab4"}])
def test_the_adjoint_is_near_the_exact_gradient_of_many_steps(exact_gen, settings, subject, road):
    generator = exact_gen.with_(**road)
    painter = painter_for(generator, settings(steps=40))
    scene = scene_of(painter, 1)
    adjoint, exact = (make_source(name, painter, subject) for name in ("adjoint", "exact"))
    if not road:  # the image is the pipeline's own, the gradient that of the ODE
        found = adjoint.climb(scene, scene.noise)
        assert torch.equal(found.image, exact.look(scene, scene.noise).image)
        assert found.calls > 3 * 40
        return
    one, other = adjoint.climb(scene, scene.noise), exact.climb(scene, scene.noise)
    assert relative_error(one.gradient, other.gradient) < 0.05


def test_calls_are_counted_as_the_network_sees_them(gen, settings, subject):
    seen = []
    handle = gen.pipe.unet.register_forward_hook(lambda *_: seen.append(1))
    source, scene = source_of("exact", gen, settings, subject)
    source.look(scene, scene.noise)
    assert len(seen) == STEPS
    handle.remove()


def test_a_gradient_that_is_not_finite_is_named_or_put_aside(exact_gen, settings, subject):
    nothing = torch.zeros(2)
    gradient = torch.tensor([[1.0], [float("nan")]]).reshape(2, 1, 1, 1)
    look = Look(nothing, nothing, nothing.bool(), nothing.bool(), nothing, 1, gradient)
    with pytest.raises(NonFinite, match=r"sample 7 \(seed 3\)"):
        require_finite(look, [Sample(6, "a", 2), Sample(7, "b", 3)])
    from adjointdpm.tasks.audit.sources import _finite

    assert _finite(look).gradient.flatten().tolist() == [1.0, 0.0]


def test_calls_of_the_ode_road_leave_the_decoder_out(exact_gen, settings, subject):
    source, scene = source_of("exact", exact_gen.with_(solver="euler"), settings, subject)
    leaf = scene.noise.clone().requires_grad_()
    out = source.painter.generate(scene.embeds, scene.negative, leaf)
    out.image_unclamped.sum().backward()
    assert calls_of(out) == 3 * STEPS - 1
