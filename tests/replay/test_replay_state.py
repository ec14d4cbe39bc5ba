"""A call is replayed as it was: random numbers, autocast, modes, buffers, hooks, LoRA, processors."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as ad
from tests.support.replay_nets import Field, compare, euler, gradients, same, state


class Noisy(nn.Module):
    """Dropout and noise of its own inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.dropout = Field(), nn.Dropout(0.5)

    def forward(self, x: Tensor, t: float) -> Tensor:
        return self.net(self.dropout(x), t) * torch.rand(8)


def test_dropout_and_noise_are_drawn_once() -> None:
    net, z = Noisy().train(), state()
    compare(lambda: euler(net, z).sum(), [z, *net.parameters()], net)


def test_backward_leaves_the_random_generator_where_it_was() -> None:
    net, z = Noisy().train(), state()
    with ad.replay(net):
        loss = euler(net, z).sum()
    before = torch.get_rng_state()
    loss.backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_among_the_arguments() -> None:
    class Sampler(nn.Module):
        def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
            return x * torch.rand(8, generator=generator)

    net, z = Sampler(), state()

    def loss() -> Tensor:
        generator = torch.Generator().manual_seed(5)
        return net(net(net(z, generator), generator=generator).sin(), generator).sum()

    compare(loss, [z], net, keep="none")


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_in_train_mode_advances_once(momentum: float | None) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, momentum=momentum)).train()

    z, plain, net = state(0, 6, 8), make(), make()

    def loop(net: nn.Module) -> Tensor:
        x = z
        for _ in range(4):
            x = x + net(x)
        return x.square().sum()

    want = gradients(loop(plain), [z, *plain.parameters()])
    with ad.replay(net):
        value = loop(net)
    got = gradients(value, [z, *net.parameters()])
    assert same(got, want)
    for (name, b), (_, c) in zip(net.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(b, c), name
    assert net[1].num_batches_tracked == 4


def test_a_buffer_that_the_forward_changes_and_uses() -> None:
    """Spectral norm in train mode: the replay must see the vectors of its own call, not the last ones."""
    torch.manual_seed(0)
    net, z = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)).train(), state()
    copy = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)).train()
    copy.load_state_dict(net.state_dict())

    def loop(net: nn.Module) -> Tensor:
        x = z
        for _ in range(4):
            x = x + net(x)
        return x.sum()

    want = gradients(loop(copy), [z])
    with ad.replay(net):
        value = loop(net)
    assert same(gradients(value, [z]), want)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), copy.buffers(), strict=True))


@pytest.mark.parametrize("weights", [False, True])
def test_autocast_is_in_force_again_after_its_block(weights: bool) -> None:
    net, z = Field().requires_grad_(weights), state()

    def loss() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return euler(net, z).float().square().sum()

    want = gradients(loss(), [z, *net.parameters()][: 1 + 4 * weights])
    with ad.replay(net, keep="none"):
        value = loss()
    got = gradients(value, [z, *net.parameters()][: 1 + 4 * weights])
    assert torch.equal(got[0], want[0])
    for g, w in zip(got[1:3], want[1:3], strict=False):  # plain sums the calls in bfloat16, replay in float32
        torch.testing.assert_close(g, w, rtol=2e-2, atol=2e-2)


def test_a_backward_inside_autocast_replays_a_float32_call_in_float32() -> None:
    seen: list[torch.dtype] = []
    net, z = Field(), state()
    net.up.register_forward_hook(lambda m, a, o: seen.append(o.dtype))
    plain = euler(net, z).sum()
    with ad.replay(net, keep="none"):
        value = euler(net, z).sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(gradients(value, [z]), gradients(plain, [z]))
    assert set(seen) == {torch.float32}
    assert len(seen) == 15


def test_train_mode_switched_within_the_loop_and_after() -> None:
    net, z = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), state()

    def loss() -> Tensor:
        net.train()
        x = net(net(z))
        net.eval()
        x = net(net(x))
        net.train()
        return x.sum()

    compare(loss, [z, *net.parameters()], net, keep="none")
    assert net.training
    assert net[1].training


def test_hooks_inside_run_per_run_and_outside_once() -> None:
    net, z, seen = Field(), state(), []
    handles = [
        net.register_forward_pre_hook(lambda m, a: (a[0] * 1.1, *a[1:])),
        net.register_forward_hook(lambda m, a, o: seen.append("outer") or o * 1.2),
        net.up.register_forward_hook(lambda m, a, o: seen.append("inner") or o * 1.3),
        net.down.register_full_backward_hook(lambda m, i, o: (i[0] * 1.4,)),
    ]
    compare(lambda: euler(net, z).sum(), [z, *net.parameters()], net)
    assert seen.count("outer") == 5 + 5  # plain, and under replay
    assert seen.count("inner") == 5 + 5 + 4  # and the recomputations
    for handle in handles:
        handle.remove()


def test_hooks_removed_or_added_after_the_call_do_not_matter() -> None:
    net, z = Field(), state()
    handle = net.up.register_forward_hook(lambda m, a, o: o * 1.3)
    want = gradients(euler(net, z).sum(), [z])
    with ad.replay(net):
        value = euler(net, z).sum()
    handle.remove()
    late = net.mix.register_forward_hook(lambda m, a, o: o * 0)
    assert same(gradients(value, [z]), want)
    assert not net.up._forward_hooks
    assert len(net.mix._forward_hooks) == 1
    late.remove()


def test_a_counter_in_the_module_counts_calls_not_replays() -> None:
    class Counting(Field):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.log = 0, {"seen": 0}

        def forward(self, x: Tensor, t: float) -> Tensor:
            self.calls += 1
            self.log["seen"] += 1
            return super().forward(x, t) * self.calls  # a result that depends on it

    net, z = Counting(), state()

    def loss() -> Tensor:
        net.calls, net.log["seen"] = 0, 0
        return euler(net, z).sum()

    compare(loss, [z, *net.parameters()], net)
    assert net.calls == 5
    assert net.log == {"seen": 5}


def test_method_patched_on_a_submodule_during_the_loop() -> None:
    net, z = Field(), state()

    def loss() -> Tensor:
        x = euler(net, z, steps=2)
        original = net.up.forward
        net.up.forward = lambda x: original(x) * 2
        x = euler(net, x, steps=2)
        del net.up.forward
        return x.sum()

    compare(loss, [z, *net.parameters()], net, keep="none")
    assert "forward" not in vars(net.up)


def test_a_submodule_replaced_after_the_call() -> None:
    net, z = Field(), state()
    want = gradients(euler(net, z).sum(), [z])
    with ad.replay(net):
        value = euler(net, z).sum()
    net.up = other = nn.Linear(8, 16)
    assert same(gradients(value, [z]), want)
    assert net.up is other


@pytest.mark.parametrize("scaled", [1.0, 0.3])
def test_lora_scale_per_call(scaled: float) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["up", "down"], init_lora_weights=False)
    net = peft.get_peft_model(Field(), config)
    layers = [m for m in net.modules() if hasattr(m, "scaling")]
    z = state()
    lora = [p for n, p in net.named_parameters() if "lora" in n]

    def loss() -> Tensor:
        x = euler(net, z, steps=2)
        for layer in layers:
            layer.scale_layer(scaled)
        x = euler(net, x, steps=2)
        net.disable_adapter_layers()
        x = euler(net, x, steps=2)
        net.enable_adapter_layers()
        for layer in layers:
            layer.unscale_layer()
        return x.sum()

    compare(loss, [z, *lora], net, keep="none", exact=False)
    assert all(layer.scaling == {"default": 4.0} for layer in layers)


def test_attention_processors_swapped_between_calls() -> None:
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

    class Scaled:
        def __init__(self) -> None:
            self.factor, self.step = 1.0, 0

        def __call__(self, attention: Any, hidden: Tensor, **rest: Any) -> Tensor:
            self.step += 1  # the state of a processor object counts too
            return AttnProcessor()(attention, hidden, **rest) * self.factor * self.step

    attention, z, scaled = Attention(8, heads=2, dim_head=4), state(0, 1, 5, 8), Scaled()
    net = nn.Sequential(attention)

    def loss() -> Tensor:
        scaled.factor, scaled.step, x = 1.0, 0, z
        for processor, factor in ((AttnProcessor2_0(), 1.0), (scaled, 0.5), (scaled, 2.0), (AttnProcessor(), 1.0)):
            attention.set_processor(processor)
            scaled.factor = factor
            x = x + net(x)
        return x.square().sum()

    compare(loss, [z, *net.parameters()], net, keep="none", exact=False)
    assert scaled.step == 2
    assert isinstance(attention.processor, AttnProcessor)


def test_upcast_during_the_call_and_undone() -> None:
    """A VAE in float16 that is decoded in float32: the replay runs in float32."""
    net, z = Field().half().requires_grad_(False), state()

    def loss() -> Tensor:
        net.float()
        y = euler(net, z)
        net.half()
        return y.sum()

    want = gradients(loss(), [z])
    with ad.replay(net, keep="none"):
        value = loss()
    assert same(gradients(value, [z]), want)
    assert all(p.dtype == torch.float16 for p in net.parameters())


@pytest.mark.parametrize("keep", ["none", "last"])
def test_a_convolution_that_was_cast_back_is_differentiated_in_the_dtype_of_its_call(keep: str) -> None:
    """Its graph holds the weight itself, not a copy: what SDXL's autoencoder meets after decoding."""
    net, z = nn.Conv2d(2, 2, 3, padding=1).half().requires_grad_(False), torch.randn(1, 2, 5, 5, requires_grad=True)
    with ad.replay(net, keep=keep):
        net.float()
        loss = net(z.sin()).square().sum()
        net.half()
    (got,) = torch.autograd.grad(loss, [z])
    assert net.weight.dtype == torch.float16
    net.float()
    (want,) = torch.autograd.grad(net(z.sin()).square().sum(), [z])
    assert torch.equal(got, want)


def test_offloaded_weights_are_on_the_meta_device_between_calls() -> None:
    accelerate = pytest.importorskip("accelerate")
    net, z = Field().requires_grad_(False), state()
    want = gradients(euler(net, z).sum(), [z])
    accelerate.cpu_offload(net, execution_device=torch.device("cpu"))
    with ad.replay(net) as r:
        value = euler(net, z).sum()
    assert same(gradients(value, [z]), want)
    assert r.stats.recomputations == 4
    assert all(p.is_meta for p in net.parameters())


def test_a_hook_that_casts_the_weights_around_each_call() -> None:
    hooks = pytest.importorskip("accelerate.hooks")

    class Upcast(hooks.ModelHook):
        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            module.float()
            return args, kwargs

        def post_forward(self, module: nn.Module, output: Any) -> Any:
            module.half()
            return output

    net, z = Field().half().requires_grad_(False), state()
    hooks.add_hook_to_module(net, Upcast())
    r = compare(lambda: euler(net, z).sum(), [z], net)
    assert r.stats.recomputations == 4
    assert next(net.parameters()).dtype == torch.float16


def test_weights_swapped_in_by_functional_call_get_gradients() -> None:
    net, z, scale = Field(), state(), torch.tensor(1.5, requires_grad=True)

    def loss() -> Tensor:
        weights = {n: p.detach() * scale for n, p in net.named_parameters()}
        x = z
        for _ in range(4):
            x = x - 0.1 * torch.func.functional_call(net, weights, (x,))
        return x.sum()

    plain = loss()
    want = gradients(plain, [z, scale])
    with ad.replay(net):
        value = loss()
    got = gradients(value, [z, scale])
    assert same(got, want)
    assert all(isinstance(p, nn.Parameter) for p in net.parameters())


@pytest.mark.parametrize("grad_mode", [nullcontext, torch.enable_grad])
def test_gradient_checkpointing_inside_the_module_on_top(grad_mode: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(Field):
        def forward(self, x: Tensor, t: float) -> Tensor:
            return checkpoint(super().forward, x, t, use_reentrant=False)

    net, z = Checkpointed(), state()
    with grad_mode():
        compare(lambda: euler(net, z).sum(), [z, *net.parameters()], net)


def test_one_method_that_leaves_a_trace_beside_one_that_does_not() -> None:
    """Whether a replay has to be looked at afterwards is known for each call, not for the module."""

    class Codec(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.decoded = nn.Linear(4, 4), 0

        def encode(self, x: Tensor) -> Tensor:
            return self.layer(x).tanh()

        def decode(self, x: Tensor) -> Tensor:
            self.decoded += 1
            return self.layer(x).sin()

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(self.encode(x))

    codec, x = Codec(), torch.randn(2, 4, requires_grad=True)
    with ad.replay(codec):
        z = codec.encode(codec.encode(x))
        out = codec.encode(codec.decode(codec.decode(z)))
    assert codec.decoded == 2
    out.sum().backward()
    assert codec.decoded == 2
