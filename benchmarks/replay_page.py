"""docs/replay.md from benchmarks/results/replay.json: tables are computed, prose is written here."""

from pathlib import Path
from typing import Any

METHODS = {
    "plain": "plain backprop",
    "reentrant": "`checkpoint`, reentrant",
    "non-reentrant": "`checkpoint`, non-reentrant",
    "replay": "`ad.replay`",
}

PAGE = """\
# `ad.replay`: any loop of your own at constant memory

```python
with ad.replay(unet, vae):
    image = my_sampling_loop(z, prompt_embeds)
loss(image).backward()
```

Each call of the given modules (`forward`, and an autoencoder's `encode` and `decode`) runs in the forward and its graph
is dropped when the next call begins; in backward it is run again. So one graph is alive at a time, however long the
loop. The last call's graph is still there when backward starts, and saves one recomputation. A whole example, with the
loop that people write by hand, is `examples/replay_your_own_loop.py`.

## What it promises

- **Gradients** reach whatever the calls take (positional, keyword, nested in lists, dicts and objects) and the weights,
  as far as they require grad. They are bit equal to plain backprop where kernels are deterministic, also for a prompt
  embedding or a weight that is used many times in every call. They are equal only to rounding in three cases: a tensor
  that one call uses several times and that the loop uses as well (`x = x + net(x)` where `net` uses `x` twice); weights
  under autocast, where plain backprop sums the calls in low precision and `ad.replay` in the weight's own; and weights
  that two modules share.
- **A call is replayed as it was**: train or eval mode, hooks, LoRA scale, attention processors, offload hooks, a weight
  dtype that was in force only for that call, autocast, random numbers (torch's generators of the CPU and of CUDA, and
  generators among the arguments). BatchNorm's statistics advance once, and dropout draws its mask once.
- **Weights that change** between a call and its backward raise `WeightsChanged` and are named, be it an optimizer step,
  `load_state_dict`, or an edit through `.data` such as an EMA swap or a LoRA merge. `torch.utils.checkpoint` returns a
  wrong gradient there. Weights that only moved, or were cast up and back, are no false alarm.
- **A learnt tensor that no gradient can be carried to** (captured by a closure, an attribute of an attention processor)
  raises `UnreachedGradient` at the call; so does, in backward, a feature that left a call by another way than its
  result and was used in the loss.
- **Memory is used if you give it**: `memory="6GB"` (or bytes, or `"auto"`) keeps as many of the last graphs as fit
  beside weights, states and the call that runs, and so saves running them again; the first call of a kind is measured
  for that. A budget that cannot hold one call is refused with the smallest that can. Or choose yourself:
  `keep="last"` (the default), the last k calls (`keep=3`), `"none"`, or all calls of certain modules (`keep=vae`).
- **Further options**: `split=2` runs a guided batch in two parts, at about half the peak and equal to rounding;
  `norms=Norms()` notes the gradient's norm at every call and names the call where a NaN arose, `Norms(clip=1.0)` bounds
  it; `accumulate=torch.float32` sums the gradients of half-precision weights over the calls in float32.
- **PyTorch's manners**: `backward`, `torch.autograd.grad`, `retain_graph`, accumulation, several results at once. A
  second derivative raises. Nothing is left on the modules, also after an exception.

## What it does not do

- A module that edits an argument with a gradient in place raises; so does, in backward, an `nn.Parameter` that was an
  argument and was edited since. (What the loop does to other arguments does not matter: the replay has copies.)
- Python's and numpy's random generators are not recorded; nor is state in globals.
- A module that collects tensors with their graphs itself (a list of attention maps) keeps those graphs alive.
- An edit of a few weights through `.data` within the loop that is undone before backward can go unseen: the values of
  all weights are compared at the first call and in backward, at each call only a few small ones are.
- `module.compile()` in place is switched off inside the block, with a warning; `torch.compile(module)` works.

## Measured

{setting}

### Time

Processor time of forward and backward, as a multiple of the floor: N forwards, N − 1 recomputations and N VJPs written
out by hand, without any bookkeeping, which no method with one graph alive can undercut. Plain backprop needs no
recomputation and may be below it.

{time}

### Live tensors

Peak bytes of the tensors that are made in forward and backward, in MB. Exact and repeatable.

{live}

### Resident memory

Growth of the process beyond that of a gradient through one call, in MB. It depends on the allocator, and is reported
beside the exact figure, not instead of it: building a graph in the forward leaves freed blocks behind, which
`ad.replay` gives back to the system where it sees that memory has grown.

{resident}

### Error

Relative ℓ2 difference from plain backprop, the largest over all differentiated tensors and rows above.

{error}

### What a call itself costs

On a network that does next to nothing (one sine of four numbers): forward, replay and VJP together, over 80 calls.

{overhead}

The difference pays for what `checkpoint` does not do: a look at the module's state and weights at each call, and gates
that keep the order of additions. It does not depend on how much the network computes; the look at the state grows with
the number of submodules, by about a microsecond each.

This page is written by `python -m benchmarks.replay`, which measures everything anew.
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    line = "|" + "|".join([" --- ", *[" ---: "] * (len(head) - 1)]) + "|"
    return "\n".join(["| " + " | ".join(head) + " |", line, *("| " + " | ".join(row) + " |" for row in rows)])


def by_method(loops: list[dict[str, Any]], cell: Any) -> str:
    head = ["", *(f"N = {r['calls']}" + (", weights" if r["kind"] == "weights" else "") for r in loops)]
    return table(head, [[label, *(cell(r, r[m]) for r in loops)] for m, label in METHODS.items()])


def write_page(result: dict[str, Any], path: Path) -> None:
    """Fill the page with the figures of one run."""
    loops, machine = result["loops"], result["machine"]
    setting = (
        "A `UNet2DConditionModel` of the embedded model's size with random weights (10 million, 16 × 16 latents of\n"
        "8 channels, batch 1, float32) in an Euler loop of N calls; the gradient goes to the noise and the\n"
        "conditioning, and in the last column to the weights as well. "
        f"torch {machine['torch']}, one thread; the methods take turns,\nand medians are reported."
    )
    overhead = result["overhead_us"]
    text = PAGE.format(
        setting=setting,
        time=by_method(loops, lambda row, m: f"{m['seconds'] / row['floor_s']:.2f}"),
        live=by_method(loops, lambda row, m: f"{m['peak_bytes'] / 1e6:.1f}"),
        resident=by_method(loops, lambda row, m: f"{m['rss_bytes'] / 1e6:.0f}"),
        error=table(
            ["", "largest difference"],
            [[label, _error(max(row[m]["error"] for row in loops))] for m, label in METHODS.items() if m != "plain"],
        ),
        overhead=table(
            ["", "as a multiple of reentrant `checkpoint`"],
            [[label, f"{overhead[m] / overhead['reentrant']:.1f}"] for m, label in METHODS.items()],
        ),
    )
    path.write_text(text)


def _error(value: float) -> str:
    return "0 (bit equal)" if value == 0 else f"{value:.0e}"
