"""Pipelines of real diffusers classes at random weights and toy sizes, so that a sampler runs in milliseconds.

Weights are scaled up: a fresh U-Net is close to linear, and its gradients would hide mistakes.
"""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerFast

WORDS = ["a", "red", "blue", "apple", "cat", "dog", "house", "sun", "big", "small", "on", "white", "dark", "sepia"]
TOKENS = 8
WIDTH = 16


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<bos>", "<eos>", *WORDS])}
    core = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    core.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", vocabulary["<bos>"]), ("<eos>", vocabulary["<eos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=TOKENS,
    )


def text_encoder(width: int = WIDTH, projection: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def unet(channels: int = 4, size: int = 8, cross: int = WIDTH, **more: Any) -> Any:
    return d.UNet2DConditionModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        **more,
    )


def vae(channels: int = 4, width: int = 8, **more: Any) -> Any:
    return d.AutoencoderKL(
        block_out_channels=(width, width),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **more,
    )


def ready(pipe: Any, scale: float = 1.5) -> Any:
    """Weights scaled up, eval mode, frozen, no bars."""
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            for parameter in component.parameters():
                if parameter.ndim > 1 and parameter.is_floating_point():
                    parameter.data.mul_(scale)
            component.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ddim(**more: Any) -> Any:
    return d.DDIMScheduler(**{"num_train_timesteps": 100, "steps_offset": 1, "clip_sample": False, **more})


def ancestral() -> Any:
    return d.EulerAncestralDiscreteScheduler(num_train_timesteps=100)


def multistep() -> Any:
    return d.DPMSolverMultistepScheduler(num_train_timesteps=100)


def stable_diffusion(scheduler: Any = None, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    parts = {
        "vae": vae(),
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(),
        "unet": unet(),
        "scheduler": ddim() if scheduler is None else scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return ready(d.StableDiffusionPipeline(**{**parts, **more}))


def stable_diffusion_xl(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = unet(
        cross=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    return ready(
        d.StableDiffusionXLPipeline(
            vae=vae(),
            text_encoder=text_encoder(),
            text_encoder_2=text_encoder(projection=True),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
            unet=network,
            scheduler=d.EulerDiscreteScheduler(num_train_timesteps=100),
            add_watermarker=False,
        )
    )


def pixel_unet(size: int = 8) -> Any:
    return d.UNet2DModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def unconditional(kind: str = "DDIM", seed: int = 0, clip_sample: bool = False) -> Any:
    torch.manual_seed(seed)
    scheduler = getattr(d, f"{kind}Scheduler")(num_train_timesteps=100, clip_sample=clip_sample)
    return ready(getattr(d, f"{kind}Pipeline")(unet=pixel_unet(), scheduler=scheduler))


def latent_unconditional(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = d.VQModel(
        block_out_channels=(8,), latent_channels=3, num_vq_embeddings=16, norm_num_groups=4, vq_embed_dim=3
    )
    return ready(d.LDMPipeline(vqvae=network, unet=pixel_unet(), scheduler=ddim()))


def stable_diffusion_3(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = d.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
        pos_embed_max_size=16,
    )
    autoencoder = vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)
    return ready(
        d.StableDiffusion3Pipeline(
            transformer=network,
            scheduler=d.FlowMatchEulerDiscreteScheduler(num_train_timesteps=100),
            vae=autoencoder,
            text_encoder=text_encoder(projection=True),
            tokenizer=tokenizer(),
            text_encoder_2=text_encoder(projection=True),
            tokenizer_2=tokenizer(),
            text_encoder_3=None,
            tokenizer_3=None,
        )
    )


def flux_transformer(width: int = WIDTH) -> Any:
    return d.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=width,
        pooled_projection_dim=width,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )


def flux(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = flux_transformer()
    pipe = d.FluxPipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(num_train_timesteps=100),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        vae=vae(shift_factor=0.06),
        transformer=network,
    )
    return ready(pipe)


def pixart(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = d.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=WIDTH,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=100,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        use_additional_conditions=False,
    )
    pipe = d.PixArtAlphaPipeline(
        tokenizer=None, text_encoder=None, vae=vae(), transformer=network, scheduler=d.DPMSolverMultistepScheduler()
    )
    return ready(pipe)


def dit(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = d.DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,  # the pipeline's null class is 1000
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    return ready(d.DiTPipeline(transformer=network, vae=vae(), scheduler=ddim()))


def controlled(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = unet()
    control = d.ControlNetModel.from_unet(network, conditioning_channels=3, conditioning_embedding_out_channels=(8, 8))
    for parameter in control.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))  # its last layers start at zero
    return ready(
        d.StableDiffusionControlNetPipeline(
            vae=vae(),
            text_encoder=text_encoder(),
            tokenizer=tokenizer(),
            unet=network,
            controlnet=control,
            scheduler=ddim(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )
