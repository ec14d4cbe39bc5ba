"""A whole `StableDiffusionPipeline` of version 1.5's size with random weights, for planner and pipeline road."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["stable_diffusion"]


def stable_diffusion(device: torch.device, tiny: bool = False) -> Any:
    """In bfloat16 on `device`; with `tiny`, of the same classes and next to no size.

    The vocabulary is the embedded model's: what a word means makes no difference to a random network.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    import adjointdpm as ad

    tokenizer = ad.zoo.emoji().tokenizer
    width, layers, blocks = (32, 2, (16, 32)) if tiny else (768, 12, (320, 640, 1280, 1280))
    groups = {"norm_num_groups": 8} if tiny else {}
    shape = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "layers_per_block": 1} if tiny else {}
    shape |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")} if tiny else {}
    stages = (8, 16) if tiny else (128, 256, 512, 512)
    standard = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            torch.manual_seed(0)
            unet = UNet2DConditionModel(
                sample_size=16 if tiny else 64, cross_attention_dim=width, attention_head_dim=8,
                block_out_channels=blocks, **shape, **groups,
            )  # fmt: skip
            vae = AutoencoderKL(
                block_out_channels=stages,
                down_block_types=("DownEncoderBlock2D",) * len(stages),
                up_block_types=("UpDecoderBlock2D",) * len(stages),
                layers_per_block=1 if tiny else 2,
                norm_num_groups=8 if tiny else 32,
                latent_channels=4,
                sample_size=32 if tiny else 512,
            )
            text_encoder = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer) if tiny else 49408, hidden_size=width, intermediate_size=4 * width,
                    num_hidden_layers=layers, num_attention_heads=width // 16 if tiny else 12,
                    max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
                )
            )  # fmt: skip
    finally:
        torch.set_default_dtype(standard)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    for module in (vae, unet, text_encoder):
        module.requires_grad_(False).eval().to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe
