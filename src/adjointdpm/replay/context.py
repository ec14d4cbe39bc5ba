"""`ad.replay`: the context manager that the user sees, and the methods that it puts on modules."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.replay.ambient import Ambient
from adjointdpm.replay.budget import Budget
from adjointdpm.replay.call import Call, Replayed, Stats, is_inside
from adjointdpm.replay.gate import Gates
from adjointdpm.replay.keep import Keep, make_keep
from adjointdpm.replay.keepsake import Keepsakes
from adjointdpm.replay.norms import Norms
from adjointdpm.replay.patch import Patches
from adjointdpm.replay.split import in_parts
from adjointdpm.replay.state import Snapshot
from adjointdpm.replay.structure import Slot, swapped
from adjointdpm.replay.trim import Trimmer
from adjointdpm.replay.unreached import check_reached
from adjointdpm.replay.weights import WeightWatch

__all__ = ["replay"]


class replay:
    """Run every call of `modules` without keeping its graph, and once more, with one, in backward.

        with ad.replay(unet, vae):
            image = my_sampling_loop(z, prompt_embeds)
        loss(image).backward()                      # inside or outside the block

    Memory is that of one call's graph, however many calls there are.  N calls cost N forwards, N - 1 recomputations
    (the last graph stays) and N VJPs.  Gradients reach whatever the calls take (positional, keyword, nested in lists,
    dicts and objects) and the modules' weights, for all that requires grad; outputs may have any structure.

    They are bit equal to plain backprop where kernels are deterministic: each use of a tensor is added in the order in
    which plain backprop adds it, also for conditioning and weights that many calls share.  Two exceptions, equal to
    rounding: a tensor with a gradient from outside the calls that one call also uses several times, and weights under
    autocast, where plain backprop sums the calls in low precision and `replay` sums them in the weight's own.

    A call is replayed as it was: modes, hooks, LoRA scale, attention processors, buffers, autocast, random numbers.
    Calls under `torch.no_grad()`, and calls that involve nothing that requires grad, run as if `replay` were not there.
    `backward`, `torch.autograd.grad`, `retain_graph`, accumulation and several live results behave as in PyTorch;
    second derivatives raise.  Hooks inside the module run again in a replay; hooks of the module itself do not.

    Parameters
    ----------
    modules: any `torch.nn.Module`s.  `forward` is replayed, and `encode` and `decode` where a module has them.
    keep: which calls keep their graph for backward, trading memory for recomputations: "last" (or 1), the last k
        (an int), "none" (or 0), or a module or several: all calls of these and of no others.
    memory: in place of `keep`, bytes for everything on the device ("6GB", 2e9, or "auto" for what is free): as many of
        the last graphs are kept as fit.  The first call of a kind is run a few times more, to measure it.
    split: run each batch in this many parts (2: the two branches of guidance, at half the peak; equal to rounding).
    norms: a `Norms()` to be filled with the gradient's norm at each call in backward; `Norms(clip=1.0)` also clips
        there, and a NaN is reported with the call where it arose.
    accumulate: dtype in which gradients of bfloat16 and float16 tensors are summed over the calls (torch.float32);
        None sums in their own, as plain backprop does.

    Attributes
    ----------
    stats: counts of `forwards` (all calls), `recomputations` and `vjps`, the last two growing as backward runs.

    Raises
    ------
    InvalidInput: not a module; an inference tensor; an `nn.Parameter` that was passed as an argument and edited in
        place before backward (other arguments may be edited: the replay has a copy); memory that cannot hold one call.
    WeightsChanged: in backward, if weights or buffers are not what they were at the call; names one.
    UnreachedGradient: a tensor requires grad and is used by a call, but is neither argument nor weight; or a tensor
        leaves a call by another way than its result and gets a gradient.
    """

    def __init__(
        self,
        *modules: torch.nn.Module,
        keep: int | str | torch.nn.Module | Iterable[torch.nn.Module] = "last",
        memory: int | float | str | Keep | None = None,
        split: int = 1,
        norms: Norms | None = None,
        accumulate: torch.dtype | None = None,
    ) -> None:
        if memory is not None and keep != "last":
            raise InvalidInput("memory= decides itself which graphs to keep: leave keep= out")
        if not modules:
            raise InvalidInput("replay() needs at least one module, such as the UNet of the loop")
        for module in modules:
            if not isinstance(module, torch.nn.Module):
                raise InvalidInput(f"replay() takes torch.nn.Modules, got {type(module).__name__}")
            if isinstance(module, torch.jit.ScriptModule):
                raise InvalidInput("replay() cannot patch a TorchScript module; pass the nn.Module it was made from")
        if isinstance(split, bool) or not isinstance(split, int) or split < 1:
            raise InvalidInput(f"split={split!r}: expected the number of parts of each batch, at least 1")
        if accumulate is not None and not (isinstance(accumulate, torch.dtype) and accumulate.is_floating_point):
            raise InvalidInput(f"accumulate={accumulate!r}: expected a floating dtype such as torch.float32, or None")
        self._split, self._norms, self._accumulate = split, norms, accumulate
        self.modules = tuple(dict.fromkeys(modules))
        self.stats = Stats()
        self._keep = make_keep(keep) if memory is None else memory if isinstance(memory, Keep) else Budget(memory)
        self._gates = Gates()
        self._keepsakes = Keepsakes()
        self._trimmer = Trimmer()
        self._snapshots: dict[torch.nn.Module, Snapshot] = {}
        self._watches: dict[torch.nn.Module, WeightWatch] = {}
        self._latest: dict[torch.nn.Module, weakref.ref[Call]] = {}
        self._uses: dict[tuple[torch.nn.Module, str], tuple[dict[int, int], frozenset[int]]] = {}  # in one call
        self._patches = Patches()
        self._active = False

    def __enter__(self) -> Self:
        if self._active:
            raise InvalidInput("this replay is already open; make a new one: with ad.replay(...)")
        self._active = True
        try:
            for module in self.modules:
                self._patches.put(module, self._call)
        except BaseException:  # a warning turned into an error must not leave half of them patched
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False
        self._patches.remove()
        self._keepsakes.clear()
        self._snapshots.clear()
        self._watches.clear()
        self._latest.clear()

    def _call(
        self, module: torch.nn.Module, method: str, original: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if is_inside():  # part of a call that is being replayed
            return original(*args, **kwargs)

        def run(args: Any, kwargs: dict[str, Any]) -> Any:
            result = self._replayable(module, method, original, args, kwargs)
            self._keep.finish()
            return result

        return in_parts(run, self._split, args, kwargs) if self._split > 1 else run(args, kwargs)

    def _replayable(
        self, module: torch.nn.Module, method: str, original: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        self.stats.forwards += 1
        if not torch.is_grad_enabled():
            return original(*args, **kwargs)
        tensors: list[torch.Tensor] = []
        slots: dict[int, Slot] = {}
        generators: list[torch.Generator] = []

        def to_slot(tensor: torch.Tensor | torch.Generator) -> Slot | torch.Generator:
            if not isinstance(tensor, torch.Tensor):
                generators.append(tensor)
                return tensor
            if id(tensor) not in slots:
                slots[id(tensor)] = Slot(len(tensors))
                tensors.append(tensor)
            return slots[id(tensor)]

        pattern = swapped((args, kwargs), (torch.Tensor, torch.Generator), to_slot, fresh=True)
        snapshot, watch = self._look_at(module)
        differentiated = [i for i, t in enumerate(tensors) if t.requires_grad]
        weights = watch.trainable
        if not differentiated and not weights:
            return original(*args, **kwargs)
        buffers = watch.begin()
        name = f"{type(module).__name__}.{method} (call {self.stats.forwards})"
        for tensor in tensors:
            if tensor.is_inference():
                raise InvalidInput(
                    f"{name}: a tensor of shape {tuple(tensor.shape)} was made under torch.inference_mode() and cannot "
                    "take part in a gradient; make it under torch.no_grad(), or pass a clone of it"
                )
        devices = {t.device for t in [*tensors, *weights[:1]]}
        call = Call(
            name=name,
            method=method,
            function=original,
            pattern=pattern,
            differentiated=differentiated,
            weights=weights,
            snapshot=snapshot,
            watch=watch,
            stats=self.stats,
            ambient=Ambient(devices, generators),
            trimmer=self._trimmer,
            on_cpu={d.type for d in devices} == {"cpu"},
            norms=self._norms,
            wide=self._accumulate,
        )
        self._latest[module] = weakref.ref(call)
        self._keep.make_room(module, call, tensors)
        if call.on_cpu:
            self._trimmer.about_to_run()
        copies = [self._keepsakes.of(t) for t in tensors]
        leaves = call.leaves(tensors)
        inner = {id(tensors[i]): leaf for i, leaf in zip(differentiated, leaves, strict=True)}
        versions = [t._version for t in tensors]
        args, kwargs = swapped((args, kwargs), torch.Tensor, lambda t: inner.get(id(t), t))
        result, outputs = call.run(args, kwargs)
        call.ambient.settle()
        call.mark, call.buffers = watch.end(buffers)
        call.probe = watch.probe()
        call.edited = {i for i, t in enumerate(tensors) if t._version != versions[i]}
        if any(copies[i].data_ptr() == tensors[i].data_ptr() for i in call.edited):
            raise InvalidInput(f"{name} edits one of its arguments in place, so it cannot be replayed; pass a clone")
        if not outputs:
            return result
        if (module, method) not in self._uses:
            of_leaves, of_weights = check_reached(name, outputs, leaves, weights)
            once = [id(t) for t, uses in zip(weights, of_weights, strict=True) if uses <= 1 and t.is_leaf]
            self._uses[module, method] = dict(zip(differentiated, of_leaves, strict=True)), frozenset(once)
        uses_of, once_used = self._uses[module, method]
        call.gates = [self._gates.of([tensors[i]], shared=uses_of.get(i) != 1) for i in differentiated]
        if weights:
            call.added_directly = [i for i, t in enumerate(weights) if id(t) in once_used]
            call.gates.append(self._gates.of(weights, shared=True))
        tokens = [gate.token for gate in call.gates]
        outer = Replayed.apply(call, outputs, copies, *tokens)  # type: ignore[no-untyped-call]
        self._keep.note(module, call, (outputs, leaves), copies)
        by_id = {id(a): b for a, b in zip(outputs, outer, strict=True)}
        return swapped(result, torch.Tensor, lambda t: by_id.get(id(t), t))

    def _look_at(self, module: torch.nn.Module) -> tuple[Snapshot, WeightWatch]:
        """The state of the module as it is now, and the watch over its weights."""
        watch = self._watches.setdefault(module, WeightWatch(module))
        known = self._snapshots.get(module)
        if known is not None and known.unchanged():
            latest = self._latest[module]() if module in self._latest else None
            if latest is not None:
                latest.leaves_a_trace = False
            return known, watch
        new = self._snapshots[module] = Snapshot(module)
        watch.look(new, anew=known is None or new.matters_beside(known))
        if watch.anew:
            self._uses = {key: uses for key, uses in self._uses.items() if key[0] is not module}
        return new, watch
