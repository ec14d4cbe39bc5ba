"""Weights in training: a LoRA, the cross-attention, or the whole denoiser, for as long as a block lasts.

The pipeline is the user's.  Within the block its denoiser has the adapter, or copies of the weights to be trained in
the places of its own; afterwards every module, every weight and every flag is the object that it was, so the pipeline
is bit for bit as before, whatever happened.  Trained weights are float32 at least: an update of 1e-4 of a weight is
lost in the eight bits of bfloat16.
"""

from __future__ import annotations

import copy
import inspect
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn

from adjointdpm.errors import InvalidInput
from adjointdpm.pipelines.components import denoisers_of
from adjointdpm.pipelines.private import modules_of
from adjointdpm.pipelines.wrt import meant_as_a_whole
from adjointdpm.runs.atomic import write_failure

__all__ = ["LORA_FILE", "Trained", "Where", "Which", "denoiser_of"]

Which = Literal["lora", "cross-attention", "all"]
Where = Literal["attention", "cross-attention"]
LORA_FILE = "pytorch_lora_weights.safetensors"
ADAPTER = "default"
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
CROSS = "attn2"  # what diffusers calls the attention to the text, where it has layers of its own
PEFT_MARKS = ("peft_config", "_hf_peft_config_loaded")


class Trained:
    """Context manager within which some weights of a pipeline's denoiser are trainable and everything else is frozen.

    `parameters` are the trainable ones by name (float32, or float64 in a pipeline of that format).  A LoRA starts as
    no change at all, and so do the others.  Make a `Painter` with `wrt=()`: it differentiates what requires grad.
    Weights other than a LoRA's need autocast where the pipeline is in half precision: see `check_precision`.

    Args:
        pipe: a diffusers pipeline.
        which: "lora" (low-rank adapters of the attention projections), "cross-attention" (its weights), "all".
        rank, alpha: of the LoRA, which adds (alpha / rank) B A to a weight; alpha is the rank by default.
        seed: of the LoRA's A matrices.
        where: the LoRA's layers: "attention", or "cross-attention" only.

    Raises:
        InvalidInput: the pipeline has no such layers, takes no LoRA, or has one active already; a rank too large.
    """

    def __init__(
        self,
        pipe: Any,
        which: Which = "lora",
        rank: int = 8,
        alpha: float | None = None,
        seed: int = 0,
        *,
        where: Where = "attention",
    ) -> None:
        if which not in ("lora", "cross-attention", "all"):
            raise InvalidInput(f"which={which!r}: expected 'lora', 'cross-attention' or 'all'")
        if where not in ("attention", "cross-attention"):
            raise InvalidInput(f"where={where!r}: expected 'attention' or 'cross-attention'")
        if rank < 1:
            raise InvalidInput(f"rank={rank}: expected at least 1")
        self.pipe, self.which, self.rank, self.seed, self.where = pipe, which, rank, seed, where
        self.alpha = float(rank if alpha is None else alpha)
        self.component, self.denoiser = denoiser_of(pipe)
        self.dtype = next((p.dtype for p in self.denoiser.parameters() if p.is_floating_point()), torch.float32)
        self.parameters: dict[str, nn.Parameter] = {}
        self._inside = False
        self._check()

    def _check(self) -> None:
        kind = type(self.pipe).__name__
        if getattr(self.denoiser, "peft_config", None):
            raise InvalidInput(
                f"pipe.{self.component} has a LoRA already: bake it in with pipe.fuse_lora() and "
                "pipe.unload_lora_weights(), or unload it"
            )
        if self.which == "lora":
            if not (hasattr(self.denoiser, "add_adapter") and hasattr(self.pipe, "save_lora_weights")):
                raise InvalidInput(f"{kind} takes no LoRA: train 'cross-attention' or 'all' of its weights")
            layers = _projections(self.denoiser, self.where)
            self._targets, most = list(layers), max(layers.values(), default=self.rank)
            if self.rank > most:
                raise InvalidInput(f"rank={self.rank} (--rank): the layers that it adapts have rank {most} at most")
        else:
            self._targets = [
                name
                for name, parameter in self.denoiser.named_parameters()
                if parameter.is_floating_point() and (self.which == "all" or CROSS in name.split("."))
            ]
        if not self._targets:
            raise InvalidInput(
                f"pipe.{self.component} ({type(self.denoiser).__name__}) has no layers named {CROSS}: its text has no "
                "cross-attention of its own; use a LoRA of all attention, or 'all' weights"
                if "cross-attention" in (self.which, self.where)
                else f"pipe.{self.component} ({type(self.denoiser).__name__}) has no attention projections for a LoRA; "
                "train 'all' weights"
            )

    def check_precision(self, mode: str) -> None:
        """Raise `InvalidInput` if these weights would meet half precision without autocast; `mode` as `Precision`'s."""
        short = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(self.dtype)
        if self.which != "lora" and short is not None and mode == "no":
            raise InvalidInput(
                f"{self.which!r} weights are trained in float32, which does not mix with a pipeline in "
                f"{str(self.dtype).removeprefix('torch.')}: say --mixed-precision {short} (mixed_precision={short!r}), "
                "load the pipeline in float32, or train a LoRA"
            )

    def __enter__(self) -> Trained:
        if self._inside:
            raise InvalidInput("this Trained is entered already")
        self._remember()
        try:
            for parameter, _ in self._flags:
                parameter.requires_grad_(False)
            self.parameters = self._add_lora() if self.which == "lora" else self._add_copies()
            for parameter in self.parameters.values():
                parameter.requires_grad_(True)
        except BaseException:
            self._put_back()
            raise
        if self.which == "all":
            meant_as_a_whole(self.denoiser)
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False
        self._put_back()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The model as it was before, for targets; not between a forward of the trained model and its backward."""
        self._require_inside()
        if self.which == "lora":
            self.denoiser.disable_adapters()
        else:
            for slots, name, original, _ in self._copies:
                slots[name] = original
        try:
            yield
        finally:
            if self.which == "lora":
                self.denoiser.enable_adapters()
            else:
                for slots, name, _, trained in self._copies:
                    slots[name] = trained
            for parameter in self.parameters.values():
                parameter.requires_grad_(True)

    def export(self, folder: Path | str) -> list[Path]:
        """Write what was learnt for plain diffusers, in the pipeline's own number format; returns the paths.

        A LoRA gives `pytorch_lora_weights.safetensors` (for `pipe.load_lora_weights(folder)`); every kind gives the
        folder of the denoiser with the change in its weights (`unet/`: `UNet2DConditionModel.from_pretrained`).
        Raises `OutputError` if they cannot be written; what was there before then stands.
        """
        self._require_inside()
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
                made = [self._save_plain(Path(scratch))]
                if self.which == "lora":
                    made.insert(0, self._save_lora(Path(scratch)))
                return [_settle(path, folder, Path(scratch)) for path in made]
        except OSError as error:
            raise write_failure(folder, error) from error

    def _remember(self) -> None:
        """Every flag of the pipeline's weights, and what hangs in every place of the denoiser."""
        self._flags = [(p, p.requires_grad) for _, module in modules_of(self.pipe) for p in module.parameters()]
        self._places = [
            (space, kind, dict(space[kind]))
            for space in map(vars, self.denoiser.modules())
            for kind in ("_modules", "_parameters")
        ]
        space = vars(self.denoiser)
        self._marks = {name: space[name] for name in PEFT_MARKS if name in space}
        self._copies: list[tuple[dict[str, Any], str, nn.Parameter, nn.Parameter]] = []

    def _put_back(self) -> None:
        for space, kind, then in self._places:
            space[kind].clear()
            space[kind].update(then)
        for name in PEFT_MARKS:
            vars(self.denoiser).pop(name, None)
        vars(self.denoiser).update(self._marks)
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)

    def _add_lora(self) -> dict[str, nn.Parameter]:
        from peft import LoraConfig

        before = {id(p) for p in self.denoiser.parameters()}
        on_gpu = [self.denoiser.device] if self.denoiser.device.type == "cuda" else []
        with torch.random.fork_rng(devices=on_gpu):
            torch.manual_seed(self.seed)
            self.denoiser.add_adapter(
                LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=list(self._targets)), ADAPTER
            )
        new = {name: p for name, p in self.denoiser.named_parameters() if id(p) not in before}
        for parameter in new.values():
            parameter.data = parameter.data.to(_wide(parameter.dtype))
        return new

    def _add_copies(self) -> dict[str, nn.Parameter]:
        """A weight that several modules share stays one."""
        named = dict(self.denoiser.named_parameters())
        made = {id(named[n]): nn.Parameter(_copy(named[n])) for n in self._targets}
        for module in self.denoiser.modules():
            slots = vars(module)["_parameters"]
            for name, parameter in list(slots.items()):
                if id(parameter) in made:
                    self._copies.append((slots, name, parameter, made[id(parameter)]))
                    slots[name] = made[id(parameter)]
        return {name: made[id(named[name])] for name in self._targets}

    def _save_lora(self, folder: Path) -> Path:
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict

        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.denoiser, adapter_name=ADAPTER))
        given: dict[str, Any] = {f"{self.component}_lora_layers": {k: v.contiguous() for k, v in layers.items()}}
        facts = {"r": self.rank, "lora_alpha": self.alpha, "target_modules": list(self._targets)}
        given[f"{self.component}_lora_adapter_metadata"] = facts
        known = inspect.signature(type(self.pipe).save_lora_weights).parameters
        type(self.pipe).save_lora_weights(folder, **{k: v for k, v in given.items() if k in known})
        return folder / LORA_FILE

    def _save_plain(self, folder: Path) -> Path:
        twin: Any = copy.deepcopy(self.denoiser)
        if self.which == "lora":
            twin.fuse_lora(adapter_names=[ADAPTER])
            twin.unload_lora()
        for parameter in twin.parameters():
            if parameter.is_floating_point() and parameter.dtype != self.dtype:
                parameter.data = parameter.data.to(self.dtype)
        twin.save_pretrained(folder / self.component)
        return folder / self.component

    def _require_inside(self) -> None:
        if not self._inside:
            raise InvalidInput("the trained weights are there only inside `with Trained(...)`")


def denoiser_of(pipe: Any) -> tuple[str, Any]:
    """(component name, network) of the pipeline's main denoiser; raises `InvalidInput` if it is not clear which."""
    found = denoisers_of(pipe)
    for name in ("unet", "transformer"):
        if name in found:
            return name, found[name]
    if len(found) == 1:
        return next(iter(found.items()))
    raise InvalidInput(f"{type(pipe).__name__} has {', '.join(found) or 'no denoiser'}: expected a unet or transformer")


def _projections(denoiser: nn.Module, where: Where) -> dict[str, int]:
    """Full names of the linear maps into and out of attention layers, with the highest rank that each can have."""
    return {
        name: min(module.in_features, module.out_features)
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear)
        and any(name.endswith(f".{projection}") for projection in PROJECTIONS)
        and (where == "attention" or CROSS in name.split("."))
    }


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _copy(parameter: nn.Parameter) -> torch.Tensor:
    return parameter.detach().to(_wide(parameter.dtype), copy=True)


def _settle(made: Path, folder: Path, scratch: Path) -> Path:
    """Move a finished file or folder to its place; an older one of that name goes with the scratch folder."""
    target = folder / made.name
    if target.is_dir():
        os.replace(target, scratch / f"old-{made.name}")
    os.replace(made, target)
    return target
