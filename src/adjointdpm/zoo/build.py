"""Assembles the embedded model from its parts, at random weights.

The same five builders serve training, the shipped folder and tests that want the architecture
small and fast.  Everything is a plain diffusers / transformers class, so that the shipped folder
needs nothing of this library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, PreTrainedTokenizerFast

LATENT_CHANNELS = 8
LATENT_SIZE = 16
TOKENS = 16
TEXT_WIDTH = 128
SCALE = 1.0 / 0.6  # the encoder is normalised to a spread of 0.6, where the decoder's tanh is mild


def build_vae() -> AutoencoderTiny:
    """Factor-4 autoencoder (64 x 64 x 3 <-> 16 x 16 x 8).

    No residual block at full resolution in the encoder and one in the decoder: convolutions there
    are the cost, while a pixel's colour is easy to copy and hard to invent.
    """
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 2, 3),
        num_decoder_blocks=(4, 2, 1),
        latent_channels=LATENT_CHANNELS,
        upsampling_scaling_factor=2,
        scaling_factor=SCALE,
    )


def build_unet() -> UNet2DConditionModel:
    """Denoiser of 16 x 16 latents, cross-attention at 8 x 8 and 4 x 4; 16 x 16 is convolution only."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # the number of heads, despite its name (diffusers issue 2011)
        norm_num_groups=16,
    )


def build_text_encoder() -> CLIPTextModel:
    """Two causal layers over whole words, trained along with the denoiser."""
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = build_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; punctuation is dropped, unknown words become `<|unknown|>`.

    As in Stable Diffusion the end token also pads, so the rows behind a short prompt still carry
    what the prompt said.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from adjointdpm.zoo.lexicon import END, PUNCTUATION, START, UNKNOWN, words

    vocabulary = {word: index for index, word in enumerate((UNKNOWN, START, END, *words()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    punctuation = normalizers.Replace(Regex(PUNCTUATION), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), punctuation])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        model_max_length=TOKENS,
    )


def build_scheduler() -> DDIMScheduler:
    """v-prediction on Stable Diffusion's scaled-linear schedule, no clipping."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,  # as diffusers insists on for Stable Diffusion; trailing spacing does not use it
        timestep_spacing="trailing",
    )


def build_pipeline() -> StableDiffusionPipeline:
    """The whole model at random weights."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=build_vae(),
        text_encoder=build_text_encoder(),
        tokenizer=build_tokenizer(),
        unet=build_unet(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
