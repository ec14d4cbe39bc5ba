"""Gradients under `ad.replay` are those of plain backprop, bit for bit."""

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

import adjointdpm as ad
from tests.support.replay_nets import Field, compare, euler, gradients, same, state


def tiny_unet(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def tiny_vae() -> Any:
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=16,
    )


def tiny_taesd() -> Any:
    torch.manual_seed(2)
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip


@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize("guided", [False, True])
def test_unet_noise_conditioning_and_weights(steps: int, guided: bool) -> None:
    unet = tiny_unet()
    z, c = state(0, 2, 4, 8, 8), state(1, 2, 5, 16)

    def loss() -> Tensor:
        x = z
        for n in range(steps):
            t = torch.tensor(900 - 100 * n)
            if guided:
                both = unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([c, c * 0.5]), return_dict=False)[0]
                a, b = both.chunk(2)
                e = b + 3.0 * (a - b)
            else:
                e = unet(x, t, encoder_hidden_states=c).sample
            x = x - 0.1 * e
        return (x**2).mean()

    r = compare(loss, [z, c, *unet.parameters()], unet)
    assert (r.stats.forwards, r.stats.recomputations, r.stats.vjps) == (steps, steps - 1, steps)


def test_two_branches_one_after_the_other() -> None:
    net, z, c = Field(), state(), state(1, 3, 4)

    def loss() -> Tensor:
        x = z
        for n in range(4):
            x = x - 0.1 * (3 * net(x, n, c) - 2 * net(x, n))
        return x.square().sum()

    compare(loss, [c, *net.parameters()], net)


@pytest.mark.parametrize("make", [tiny_vae, tiny_taesd])
def test_autoencoders_encode_and_decode(make: Any) -> None:
    vae = make()
    z, image = state(0, 1, 4, 8, 8), state(1, 1, 3, 16, 16)

    def loss() -> Tensor:
        decoded = vae.decode(z).sample
        encoded = vae.encode(image)
        if hasattr(encoded, "latent_dist"):
            noisy = encoded.latent_dist.sample(torch.Generator().manual_seed(3))
            return decoded.square().mean() + noisy.square().mean() + encoded.latent_dist.mode().mean()
        return decoded.square().mean() + encoded.latents.square().mean()

    r = compare(loss, [z, image, *vae.parameters()], vae)
    assert (r.stats.forwards, r.stats.recomputations, r.stats.vjps) == (2, 1, 2)


def test_forward_of_an_autoencoder_is_one_call_although_it_encodes_and_decodes() -> None:
    vae, image = tiny_vae(), state(1, 1, 3, 16, 16)
    r = compare(lambda: vae(image).sample.square().mean(), [image], vae)
    assert r.stats.forwards == 1


def test_unet_then_decode_with_one_graph_alive() -> None:
    unet, vae = tiny_unet(), tiny_vae()
    z, c = state(0, 1, 4, 8, 8), state(1, 1, 5, 16)

    def loss() -> Tensor:
        x = euler(lambda x, t: unet(x, 500, c).sample, z, steps=3)
        return vae.decode(x).sample.square().mean()

    r = compare(loss, [z, c, *unet.parameters(), *vae.decoder.parameters()], unet, vae)
    assert (r.stats.forwards, r.stats.recomputations, r.stats.vjps) == (4, 3, 4)


def test_conditioning_and_weights_used_often_in_every_call_are_bit_equal() -> None:
    """Plain backprop adds every use one after the other; so does replay, through its gates."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Linear(8, 8)

        def forward(self, x: Tensor, t: float, c: Tensor) -> Tensor:
            for k in range(5):
                x = torch.sin(self.w(x) + c * (k + 1.1) + c.square())
            return x

    net, z, c = Tied(), state(), state(1)
    r = compare(lambda: euler(net, z, c, steps=8).sum(), [z, c, *net.parameters()], net)
    assert r.stats.recomputations == 7


@pytest.mark.parametrize("tied", [False, True])
def test_large_weights_whose_gradients_are_added_as_they_arise(tied: bool) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Parameter(torch.randn(130, 130) / 12), nn.Parameter(torch.randn(130, 130) / 12)
            self.unused = nn.Parameter(torch.randn(130, 130))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.sin(x @ (self.a + self.b))  # one and the same gradient for both
            return torch.sin(h @ self.a) if tied else h

    net, z = Wide(), state(0, 3, 130)
    hooked = net.b.register_hook(lambda g: g * 2)

    def loss() -> Tensor:
        x = z
        for _ in range(6):
            x = net(x)
        return x.square().sum()

    leaves = [z, *net.parameters()]
    compare(loss, leaves, net)
    want = gradients(loss(), leaves)
    with ad.replay(net):
        value = loss()
    for _ in range(2):
        assert same(torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True), want)
    hooked.remove()


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_dtypes(dtype: torch.dtype) -> None:
    net, z = nn.Linear(8, 8).to(dtype), state(dtype=dtype)

    def loss() -> Tensor:
        x = z
        for _ in range(4):
            x = x + net(x) * 0.1
        return (x * x.conj()).real.sum()

    compare(loss, [z, *net.parameters()], net)


def test_mixed_dtypes_and_integers() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor, index: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
            return torch.where(mask, x[index], x) * scale.float()

    z, scale = state(), state(1, 1, dtype=torch.float64)
    index, mask = torch.tensor([2, 0, 1]), torch.arange(8) % 2 == 0

    def loss() -> Tensor:
        x = z
        for _ in range(3):
            x = net(x, index, mask, scale)
        return x.square().sum()

    net = Mixed()
    compare(loss, [z, scale], net)


@pytest.mark.parametrize(
    "shape",
    [
        lambda t: t.expand(6, 2, 4, 4),  # stride 0
        lambda t: t.repeat(6, 1, 1, 1)[::2],  # not contiguous
        lambda t: t.repeat(6, 1, 1, 1).contiguous(memory_format=torch.channels_last),
        lambda t: t.repeat(6, 1, 1, 1).transpose(2, 3),
    ],
)
def test_layouts_of_the_input(shape: Any) -> None:
    net, z = nn.Conv2d(2, 2, 3, padding=1), state(0, 1, 2, 4, 4)

    def loss() -> Tensor:
        x = shape(z)
        for _ in range(3):
            x = x + net(x)
        return x.square().sum()

    compare(loss, [z, *net.parameters()], net)


def test_the_same_tensor_passed_twice() -> None:
    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a.sin() * b

    net, z = Product(), state()
    compare(lambda: net(net(z, z), z).sum(), [z], net)


def test_identity_and_a_module_that_returns_its_weight() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self) -> Tensor:
            return self.w

    identity, constant, z = nn.Identity(), Constant(), state(0, 3)
    compare(lambda: (identity(identity(z)) * constant() * constant()).sum(), [z, constant.w], identity, constant)


def test_autograd_grad_for_the_noise_does_not_compute_weight_gradients() -> None:
    class Cube(torch.autograd.Function):
        weight_gradients = 0

        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            ctx.save_for_backward(x, w)
            return x * w

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            x, w = ctx.saved_tensors
            if torch._C._will_engine_execute_node(ctx.next_functions[1][0]):
                Cube.weight_gradients += 1
            return g * w, g * x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.full((8,), 0.9))

        def forward(self, x: Tensor) -> Tensor:
            return Cube.apply(x, self.w * 1)

    net, z = Net(), state()
    with ad.replay(net):
        value = net(net(net(z))).sum()
    (g,) = torch.autograd.grad(value, [z], retain_graph=True)
    assert Cube.weight_gradients == 0
    g2, w = torch.autograd.grad(value, [z, net.w])
    assert torch.equal(g, g2)
    assert Cube.weight_gradients == 3
    assert same([w], gradients(net(net(net(z))).sum(), [net.w]))


def test_accumulation_in_grad_over_several_losses() -> None:
    net, z = Field(), state()
    for _ in range(2):
        euler(net, z).sum().backward()
    want = [p.grad for p in [z, net.up.weight]]
    z.grad, net.up.weight.grad = None, None
    for _ in range(2):
        with ad.replay(net):
            euler(net, z).sum().backward()
    assert same([z.grad, net.up.weight.grad], want)


def test_two_live_results_and_one_dropped() -> None:
    net, z, y = Field(), state(0), state(1)
    want = [*gradients(euler(net, z).sum(), [z, *net.parameters()]), *gradients(euler(net, y).sin().sum(), [y])]
    with ad.replay(net):
        first, dropped, second = euler(net, z), euler(net, z), euler(net, y)
    del dropped
    got_y = gradients(second.sin().sum(), [y])  # the other way round, to mix them up
    got_z = gradients(first.sum(), [z, *net.parameters()])
    assert same([*got_z, *got_y], want)


def test_one_backward_through_several_results_of_the_same_weights() -> None:
    net, z, y = Field(), state(0), state(1)
    compare(lambda: euler(net, z).sum() + euler(net, y).square().sum(), [z, y, *net.parameters()], net)


def test_weights_shared_by_two_modules() -> None:
    a, b, z = Field(), Field(), state()
    b.up.weight = a.up.weight

    def loss() -> Tensor:
        return euler(b, euler(a, z)).sum()

    want = gradients(loss(), [z, a.up.weight])
    with ad.replay(a, b):
        value = loss()
    got = gradients(value, [z, a.up.weight])
    assert torch.equal(got[0], want[0])
    torch.testing.assert_close(got[1], want[1], rtol=1e-6, atol=1e-7)


def test_hooks_and_retain_grad_on_tensors_outside_and_on_weights() -> None:
    net, z = Field(), state()

    def loss(seen: list[Tensor]) -> Tensor:
        x = z * 1.5
        x.retain_grad()
        x.register_hook(lambda g: seen.append(g) or g * 2)
        return euler(net, x).sum()

    calls: list[int] = []
    handle = net.up.weight.register_hook(lambda g: calls.append(1) or g * 3)
    plain: list[Tensor] = []
    want = gradients(loss(plain), [z, net.up.weight])
    replayed: list[Tensor] = []
    with ad.replay(net):
        value = loss(replayed)
    got = gradients(value, [z, net.up.weight])
    handle.remove()
    assert same(got, want)
    assert same(replayed, plain)
    assert len(calls) == 2  # once in plain backprop, once here


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_module(backend: str) -> None:
    net, z = Field(), state()
    compiled = torch.compile(net, backend=backend)
    want = gradients(euler(net, z).sum(), [z, *net.parameters()])
    with ad.replay(compiled) as r:
        value = euler(compiled, z).sum()
    got = gradients(value, [z, *net.parameters()])
    for g, w in zip(got, want, strict=True):
        if w is None:
            assert g is None
        else:
            torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-6)
    assert r.stats.recomputations == 4
    assert "forward" in vars(compiled)
    assert "forward" not in vars(net)
