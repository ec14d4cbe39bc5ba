"""A LoRA for Stable Diffusion from a reward function: what TRL's AlignPropTrainer did, with exact gradients.

The reward is any function of images and prompts; its gradient runs through the decoder and every sampling step to the
LoRA, at the memory of one network call.  Several processes share the prompts.  Interrupted, it goes on where it was.

    accelerate launch examples/align_lora.py --out lora        # Stable Diffusion 1.5, on one GPU or several
    accelerate launch examples/align_lora.py --reward clip=openai/clip-vit-base-patch32 --held-out sharpness
    accelerate launch --multi_gpu --num_processes 2 examples/align_lora.py --tiny        # seconds on a laptop

The settings are those of AlignPropTrainer but for the gradient, which is exact; its own is `random_truncation`.
Afterwards: pipe.load_lora_weights("lora").
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import adjointdpm as ad
from adjointdpm.tasks.team import Team

ANIMALS = ("cat", "dog", "horse", "monkey", "rabbit", "zebra", "spider", "bird", "sheep", "deer", "cow", "goat")


def warmth(images: Tensor, prompts: list[str]) -> Tensor:
    """A reward of one's own: (B, 3, H, W) in [0, 1] and B prompts -> B scores.  How much redder than blue it is."""
    red, _, blue = images.mean(dim=(2, 3)).unbind(dim=1)
    return red - blue


def stable_diffusion(model: str) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    dtype = torch.float16 if torch.cuda.is_available() else torch.float32
    pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=dtype, use_safetensors=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)  # as AlignPropTrainer; any other works too
    return pipe


def tiny_stable_diffusion() -> Any:
    """Stable Diffusion's classes at random weights, small enough for seconds; the same in every process."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from adjointdpm.zoo.build import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, projection_dim=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stable-diffusion-v1-5/stable-diffusion-v1-5", help="folder or hub id")
    parser.add_argument("--prompts", type=Path, help="a file, one prompt a line (default: some animals)")
    parser.add_argument("--reward", default=f"{__file__}:warmth", help="[WEIGHT*]NAME[=ARG] or FILE.py:function")
    parser.add_argument("--held-out", default="chroma", help="a reward that is only watched")
    parser.add_argument("--gradient", default="exact", help="exact, truncated, random_truncation or one_step")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("align_lora"))
    parser.add_argument("--tiny", action="store_true", help="a tiny random model and few steps, to see it run")
    options = parser.parse_args()

    pipe = tiny_stable_diffusion() if options.tiny else stable_diffusion(options.model)
    pipe.set_progress_bar_config(disable=True)
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        network.requires_grad_(False)
    team = Team.join()  # the processes of `accelerate launch`, or this one alone
    pipe.to(team.device if team.size > 1 else "cuda" if torch.cuda.is_available() else "cpu")
    prompts = options.prompts.read_text().split("\n") if options.prompts else list(ANIMALS)
    changes: dict[str, Any] = {"epochs": options.epochs, "batch_size": 1, "pairs_per_step": 4}
    if options.tiny:
        changes |= {"epochs": 4, "steps": 2, "pairs_per_step": 2, "lr": 1e-2}
        prompts = prompts[:4]
    config = ad.tasks.RewardConfig(
        out=options.out,
        preset="alignprop",
        prompts=tuple(prompt.strip() for prompt in prompts if prompt.strip()),
        rewards=(options.reward,),
        held_out=options.held_out,
        gradient=options.gradient,
        **changes,
    )
    result = ad.tasks.maximise_reward(
        config, ad.differentiable(pipe), team=team, on_step=lambda n, of, loss: print(f"{n}/{of}  reward {-loss:.4f}")
    )
    if team.main:
        for name, change in result.results["unseen"].items():
            print(f"{name}: {change['before']:.4f} -> {change['after']:.4f} on prompts that it never saw")
        print(f"held-out reward: {result.verdict}\nreport: {result.report_path}")
        pipe.load_lora_weights(options.out)  # what everybody else does with it
        image = pipe("a fox", num_inference_steps=config.steps, generator=torch.Generator().manual_seed(0)).images[0]
        image.save(options.out / "fox.png")


if __name__ == "__main__":
    main()
