"""Weights in training: the LoRA, the cross-attention, all; export to plain diffusers; and nothing left behind."""

from pathlib import Path
from typing import Any

import pytest
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.formats import fingerprint
from adjointdpm.pipelines import differentiable
from adjointdpm.runs import OutputError, load_tensors
from adjointdpm.tasks.painter import Painter
from adjointdpm.tasks.settings import TaskConfig
from adjointdpm.tasks.weights import LORA_FILE, Trained
from tests.support.tiny_pipeline import tiny_pipeline

KINDS: list[Any] = ["lora", "cross-attention", "all"]
CONFIG = TaskConfig(out="unused", steps=2)


@pytest.fixture
def pipe() -> Any:
    pipe = tiny_pipeline()
    pipe.unet.conv_in.requires_grad_(True)  # flags that differ, to be found again
    return pipe


def images(pipe: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    painter = Painter(differentiable(pipe), CONFIG)
    embeds, negative = painter.encode(["cat", "red apple"])
    return painter.paint(embeds.to(dtype), negative.to(dtype), [1, 2]).image


def move(trained: Trained, size: float = 0.05) -> None:
    """Change every trained weight a little."""
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.add_(size * torch.randn(parameter.shape, generator=source).to(parameter))


def facts(pipe: Any) -> tuple[Any, ...]:
    """Everything of a pipeline's networks that training could leave changed."""
    networks = (pipe.unet, pipe.vae, pipe.text_encoder)
    modules = [(name, id(module), type(module)) for network in networks for name, module in network.named_modules()]
    weights = [(name, id(p), p.requires_grad, p._version) for n in networks for name, p in n.named_parameters()]
    spaces = [sorted(vars(module)) for network in networks for module in network.modules()]
    return modules, weights, spaces, fingerprint(pipe)


@pytest.mark.parametrize("which", KINDS)
def test_the_pipeline_is_afterwards_what_it_was(pipe: Any, which: Any) -> None:
    before, seen = facts(pipe), images(pipe)
    with Trained(pipe, which, rank=2) as trained:
        assert torch.equal(images(pipe), seen)  # training starts at the model itself
        move(trained)
        changed = images(pipe)
        assert not torch.equal(changed, seen)
        with trained.disabled():
            assert torch.equal(images(pipe), seen)
        assert torch.equal(images(pipe), changed)
        for parameter in trained.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
    assert facts(pipe) == before
    assert torch.equal(images(pipe), seen)
    assert all(p.grad is None for p in pipe.unet.parameters())


@pytest.mark.parametrize("which", KINDS)
def test_also_after_an_exception(pipe: Any, which: Any) -> None:
    def fail() -> None:
        with Trained(pipe, which) as trained:
            move(trained)
            raise RuntimeError("stop")

    before = facts(pipe)
    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert facts(pipe) == before


@pytest.mark.parametrize("which", KINDS)
def test_only_the_trained_weights_get_a_gradient_and_it_is_right(pipe: Any, which: Any) -> None:
    with Trained(pipe, which, rank=2) as trained:
        move(trained, 0.02)  # a LoRA that starts at zero has no gradient to its A
        assert {id(p) for p in pipe.unet.parameters() if p.requires_grad} == {
            id(p) for p in trained.parameters.values()
        }
        assert not any(p.requires_grad for n in (pipe.vae, pipe.text_encoder) for p in n.parameters())
        gradients = []
        for engine in ("exact", "full"):
            painter = Painter(differentiable(pipe, gradient=engine), CONFIG)
            embeds, negative = painter.encode(["cat"])
            out = painter.generate(embeds, negative, [3])
            painter.backward(out.image_unclamped.square().mean())
            gradients.append({name: p.grad for name, p in trained.parameters.items()})
            for parameter in trained.parameters.values():
                parameter.grad = None
        assert all(g is not None and bool(g.any()) for g in gradients[0].values())
        assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in trained.parameters)
        assert painter.network_calls == 2


def test_what_is_trained(pipe: Any) -> None:
    with Trained(pipe, "lora", rank=3) as trained:
        assert len(trained.parameters) == 2 * 4 * 2 * 4  # A and B, four projections, two attentions, four blocks
        assert {p.shape[0] for name, p in trained.parameters.items() if "lora_A" in name} == {3}
        assert all(not bool(p.any()) for name, p in trained.parameters.items() if "lora_B" in name)
    with Trained(pipe, "lora", where="cross-attention") as trained:
        assert len(trained.parameters) == 2 * 4 * 4
        assert all(".attn2." in name for name in trained.parameters)
    with Trained(pipe, "cross-attention") as trained:
        assert all(".attn2." in name for name in trained.parameters)
        assert len(trained.parameters) == 5 * 4  # q, k, v, out and its bias
    with Trained(pipe, "all") as trained:
        assert trained.parameters.keys() == dict(pipe.unet.named_parameters()).keys()


def test_a_lora_is_drawn_from_its_seed_alone(pipe: Any) -> None:
    drawn = []
    for state, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(state)
        with Trained(pipe, "lora", seed=seed) as trained:
            drawn.append(torch.cat([p.detach().flatten() for p in trained.parameters.values()]))
        assert torch.initial_seed() == state
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(state)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(("alpha", "where"), [(None, "attention"), (6.0, "attention"), (1.0, "cross-attention")])
def test_the_lora_in_plain_diffusers_gives_the_same_image(
    pipe: Any, tmp_path: Path, alpha: float | None, where: Any
) -> None:
    with Trained(pipe, "lora", rank=2, alpha=alpha, where=where) as trained:
        move(trained)
        ours = images(pipe)
        call = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
        said = pipe("cat", generator=torch.Generator().manual_seed(1), **call).images
        paths = trained.export(tmp_path / "out")
    assert [path.name for path in paths] == [LORA_FILE, "unet"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [LORA_FILE, "unet"]
    plain = tiny_pipeline()
    plain.load_lora_weights(tmp_path / "out", weight_name=LORA_FILE)
    assert torch.equal(images(plain), ours)
    assert torch.equal(plain("cat", generator=torch.Generator().manual_seed(1), **call).images, said)
    merged = tiny_pipeline()
    merged.unet = type(merged.unet).from_pretrained(tmp_path / "out" / "unet").requires_grad_(False)
    assert torch.allclose(images(merged), ours, atol=1e-5)
    assert not torch.allclose(images(tiny_pipeline()), ours, atol=1e-4)


@pytest.mark.parametrize("which", ["cross-attention", "all"])
def test_plain_weights_give_the_same_image(pipe: Any, tmp_path: Path, which: Any) -> None:
    with Trained(pipe, which) as trained:
        trained.export(tmp_path)
        move(trained)
        ours = images(pipe)
        assert trained.export(tmp_path) == [tmp_path / "unet"]  # over the one before
    plain = tiny_pipeline()
    plain.unet = type(plain.unet).from_pretrained(tmp_path / "unet").requires_grad_(False)
    assert torch.equal(images(plain), ours)
    assert [path.name for path in tmp_path.iterdir()] == ["unet"]


def test_half_precision_is_trained_in_float32_and_written_as_it_was(tmp_path: Path) -> None:
    pipe = tiny_pipeline().to(torch.bfloat16)
    seen = images(pipe, torch.bfloat16)
    with Trained(pipe, "lora", rank=2) as trained:
        assert {p.dtype for p in trained.parameters.values()} == {torch.float32}
        assert torch.equal(images(pipe, torch.bfloat16), seen)
        trained.export(tmp_path)
    painter = Painter(differentiable(pipe), TaskConfig(out="unused", steps=2, mixed_precision="bf16"))
    with Trained(pipe, "cross-attention") as trained:
        assert {p.dtype for p in trained.parameters.values()} == {torch.float32}
        embeds, negative = painter.encode(["cat"])
        painter.backward(painter.generate(embeds, negative, [1]).image_unclamped.mean())
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained.parameters.values())
        trained.export(tmp_path)
    written, _ = load_tensors(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.bfloat16}


def test_a_weight_that_two_layers_share_stays_shared(pipe: Any) -> None:
    block = pipe.unet.mid_block.attentions[0].transformer_blocks[0]
    first, second = block.attn1.to_out[0], block.attn2.to_out[0]
    own = second.bias = first.bias
    with Trained(pipe, "all") as trained:
        assert first.bias is second.bias
        assert first.bias is not own
        assert sum(p is first.bias for p in trained.parameters.values()) == 1
    assert first.bias is second.bias is own


def test_refusals(pipe: Any, tmp_path: Path) -> None:
    for arguments, message in (
        ({"which": "bias"}, "expected 'lora', 'cross-attention' or 'all'"),
        ({"rank": 0}, "rank=0"),
        ({"rank": 33}, r"rank=33 \(--rank\): the layers that it adapts have rank 32 at most"),
        ({"where": "everywhere"}, "where='everywhere'"),
    ):
        with pytest.raises(InvalidInput, match=message):
            Trained(pipe, **arguments)
    trained = Trained(pipe)
    with pytest.raises(InvalidInput, match="inside `with Trained"):
        trained.export(tmp_path)
    with trained:
        with pytest.raises(InvalidInput, match="has a LoRA already"):
            Trained(pipe)
        with pytest.raises(InvalidInput, match="entered already"), trained:
            pass
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot write"):
            trained.export(tmp_path / "file")
    assert not hasattr(pipe.unet, "peft_config")


def test_networks_without_the_layers(pipe: Any) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(16,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=8,
        layers_per_block=1,
    )
    unconditional = DDPMPipeline(unet, DDPMScheduler())
    with pytest.raises(InvalidInput, match="takes no LoRA"):
        Trained(unconditional, "lora")
    with pytest.raises(InvalidInput, match="no layers named attn2"):
        Trained(unconditional, "cross-attention")
    with Trained(unconditional, "all") as trained:
        assert trained.component == "unet"
