"""The primitive beneath the pipeline road: a module's calls without a graph, run again in backward.

`with replay(unet, vae): image = my_loop(...)` makes any loop constant-memory without changing its gradients.  Why not
`torch.utils.checkpoint`: it must be written into the loop at each call, it keeps no graph of the last call, it does not
notice that weights changed before backward (a wrong gradient without a word), and of the state that pipelines change
around a call (LoRA scale, attention processors, hooks, train mode) it restores nothing.
"""

from __future__ import annotations

from adjointdpm.replay.budget import Budget
from adjointdpm.replay.context import replay
from adjointdpm.replay.norms import CallNorm, Norms

__all__ = ["Budget", "CallNorm", "Norms", "replay"]
