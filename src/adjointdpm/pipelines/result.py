"""What a differentiable generator returns: images with a graph, latents, and what the run cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from adjointdpm.numerics import LiveTensorMeter
from adjointdpm.pipelines.outcome import Counts
from adjointdpm.pipelines.pictures import safe_pictures

__all__ = ["Generated", "Inverted", "Stats"]


@dataclass
class Stats:
    """What a call did; the fields of the backward fill while it runs, and add up over several.

    Attributes:
        road: "pipeline" or "ode".
        gradient: "exact", "full" or "adjoint".
        scheduler: class name of the scheduler, or the solver's name.
        steps: the `num_inference_steps` asked for; None where the pipeline chose.
        nfe: denoiser calls of the forward.
        seconds: of the forward, text encoder and decoding included.
        safety: the safety checker's verdict for each image; None where the pipeline has no checker.
        seeds: the seed of each image; None where none was given.
        peak_bytes: most bytes of tensors alive at once (CUDA: always; CPU: with `measure=True`), backward
            included once it has run.
        rss_bytes: resident memory of the process after the call.
        backward_seconds: time in backward so far.
    """

    road: str
    gradient: str
    scheduler: str
    steps: int | None
    nfe: int = 0
    seconds: float = 0.0
    safety: list[bool] | None = None
    seeds: list[int] | None = None
    peak_bytes: int | None = None
    rss_bytes: int | None = None
    backward_seconds: float = 0.0
    counts: Counts = field(default_factory=Counts, repr=False)  # live

    @property
    def vjps(self) -> int:
        """Vector-Jacobian products of replayed networks so far."""
        return self.counts["vjps"]

    @property
    def recomputations(self) -> int:
        """Network calls run again in backward so far."""
        return self.counts["recomputations"]

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "counts"}
        return {**plain, "vjps": self.vjps, "recomputations": self.recomputations}

    def time_backward(self, *tensors: torch.Tensor) -> None:
        """Clock every backward that enters through one of these tensors."""
        last = -1

        def start(grad: torch.Tensor) -> None:
            nonlocal last
            task = int(torch._C._current_graph_task_id())
            if task == last:
                return
            last, began = task, time.perf_counter()

            def stop() -> None:
                self.backward_seconds += time.perf_counter() - began
                if grad.is_cuda:
                    self.peak_bytes = max(self.peak_bytes or 0, torch.cuda.max_memory_allocated(grad.device))

            torch.autograd.Variable._execution_engine.queue_callback(stop)

        for tensor in {id(t): t for t in tensors if t.requires_grad}.values():
            tensor.register_hook(start)  # type: ignore[no-untyped-call]

    def measure_backward(self, meter: LiveTensorMeter, nodes: Iterable[Any]) -> None:
        """Let `meter` watch the work of these nodes of the graph, each time one runs.

        A dispatch mode entered by a hook is in force until that node has run, not longer, so each node enters its own.
        """

        def enter(grads: Any) -> None:
            meter.__enter__()  # type: ignore[no-untyped-call]

        def leave(grads_in: Any, grads_out: Any) -> None:
            meter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self.peak_bytes = max(self.peak_bytes or 0, meter.peak_bytes)

        for node in nodes:
            if not hasattr(node, "variable"):  # the user's own leaves keep no hook of ours
                node.register_prehook(enter)
                node.register_hook(leave)


@dataclass
class Generated:
    """Images with a graph.

    Attributes:
        image: (B, 3, H, W) in [0, 1], clamped as the pipeline clamps it (no gradient on saturated pixels), before any
            safety checker or watermark.
        image_unclamped: the same before the clamp.
        latents: the last latents, as `output_type="latent"` gives them (before the autoencoder's scaling).
        stats: what it cost.
        frames: video (B, F, 3, H, W), where the pipeline makes video; None otherwise.
    """

    image: torch.Tensor
    image_unclamped: torch.Tensor
    latents: torch.Tensor | None
    stats: Stats
    frames: torch.Tensor | None = None
    pipe: Any = field(default=None, repr=False)
    decoded: torch.Tensor | None = field(default=None, repr=False)  # detached, as the image processor was given it

    @property
    def images(self) -> torch.Tensor:
        """The same as `image`."""
        return self.image

    def pil(self) -> list[Any]:
        """PIL images, after the pipeline's own safety checker and watermark."""
        return safe_pictures(self.pipe, self.image.detach(), self.decoded, self.stats.safety)


@dataclass
class Inverted:
    """An image turned back into noise.

    Attributes:
        latents: (B, C, h, w), noise x_T that a call with the same settings turns into the image.
        image: (B, 3, H, W), what that noise gives.
        psnr: of `image` against the image that was asked for, in dB, one for each image.
        autoencoder_psnr: of the autoencoder alone, the most that can be reached.
        stats: of the generation.
    """

    latents: torch.Tensor
    image: torch.Tensor
    psnr: list[float]
    autoencoder_psnr: list[float]
    stats: Stats
