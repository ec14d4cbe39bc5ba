"""A FluxPipeline of random weights: 8 x 8 latents packed into 16 rows, 16 x 16 images, the embedded model's words."""

from typing import Any

import torch

WIDTH = 32


def tiny_flux(seed: int = 0) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
    from transformers import T5Config, T5EncoderModel

    from adjointdpm.zoo.build import build_tokenizer
    from tests.pipelines.tiny import flux_transformer
    from tests.support.tiny_pipeline import tiny_pipeline

    parts = tiny_pipeline(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        t5 = T5Config(vocab_size=len(parts.tokenizer), d_model=WIDTH, d_ff=WIDTH, num_layers=1, num_heads=2, d_kv=8)
        transformer = flux_transformer(WIDTH)
        pipe = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=parts.vae,
            text_encoder=parts.text_encoder,
            tokenizer=parts.tokenizer,
            text_encoder_2=T5EncoderModel(t5),
            tokenizer_2=build_tokenizer(),
            transformer=transformer,
        )
    pipe.default_sample_size = 8
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.transformer, pipe.text_encoder_2):
        module.requires_grad_(False).eval()
    return pipe
