"""How much is measured: the settings of a full run, of a quick one and of the test's tiny one."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ADAPTIVE", "CORE", "ESSENTIAL", "FULL", "QUICK", "SLOW", "TINY", "Plan"]

#: Rows with about one evaluation a step in either direction; they are timed at most numbers of steps.
CORE = (
    "plain", "reentrant", "non-reentrant", "full", "exact", "exact_0.5", "exact_1", "exact_ab4", "reversible",
    "truncated", "random_truncation", "one_step", "adjoint", "torchdiffeq_adams",
)  # fmt: skip
#: Rows that cost many times as much: timed at one number of steps.
SLOW = (
    "exact_heun", "exact_rk4", "full_rk4", "adjoint_ab4", "adjoint_paper", "torchdiffeq_euler", "torchdiffeq_rk4",
)  # fmt: skip
#: Rows of some hundred evaluations whatever N is: timed in one turn except to x_T.
ADAPTIVE = ("torchdiffeq_dopri5", "torchode_autodiff", "torchode_backsolve")
ESSENTIAL = ("full", "exact", "exact_0.5", "exact_1", "exact_ab4", "reversible", "torchdiffeq_adams")


@dataclass(frozen=True)
class Plan:
    """What a run measures.

    Attributes:
        rounds: timed turns.
        timed: (kind, steps, rows) of the cost section, in the order in which they are measured.
        untimed: (kind, steps) at which error, memory and evaluations alone are measured, of the `ESSENTIAL` rows.
        errors: (steps, dtypes) of the exactness of every solver; walked: steps of `reversible`.
        budgets: (kind, steps) of that section; selective: kinds of the section of a single call.
        empty: (steps, turns) of the empty network.
        compiled, guided: steps, 0 to leave the section out.
        mixture: steps of the analytic section; `samples` its batch, `reference` the steps of the converged gradient.
        seconds, seeds, optimised: of the runs of equal time: wall time of each, seeds, sampling steps.
    """

    rounds: int = 5
    timed: tuple[tuple[str, int, tuple[str, ...]], ...] = ()
    untimed: tuple[tuple[str, int], ...] = ()
    errors: tuple[tuple[int, tuple[str, ...]], ...] = ((5, ("float32", "float64")), (20, ("float32",)))
    walked: tuple[int, ...] = (5, 10, 20, 40, 80)
    budgets: tuple[tuple[str, int], ...] = (("x_T", 20), ("weights", 20))
    selective: tuple[str, ...] = ("x_T", "weights")
    empty: tuple[int, int] = (40, 15)
    compiled: int = 20
    guided: tuple[int, ...] = (10, 20, 40)
    guided_reference: int = 200
    mixture: tuple[int, ...] = (10, 20, 50)
    samples: int = 128
    reference: int = 4000
    seconds: float = 10.0
    seeds: tuple[int, ...] = (0, 1, 2)
    optimised: int = 10
    kinds: tuple[str, ...] = field(default=("x_T", "cond", "weights"))


FULL = Plan(
    timed=(
        ("x_T", 10, CORE + SLOW + ADAPTIVE),
        ("weights", 10, CORE + SLOW),
        ("weights", 20, CORE),
        ("x_T", 20, CORE),
        *((kind, 5, CORE) for kind in ("x_T", "weights")),
        ("x_T", 40, ESSENTIAL),
        ("x_T", 80, ESSENTIAL),
        ("cond", 10, CORE + SLOW),
        ("cond", 20, ESSENTIAL),
        ("cond", 5, CORE),
    ),
    untimed=(("weights", 40), ("cond", 40), ("weights", 80), ("cond", 80)),
)
QUICK = Plan(
    rounds=2,
    timed=(("x_T", 5, CORE + SLOW), ("weights", 5, ESSENTIAL), ("x_T", 10, ESSENTIAL)),
    errors=((3, ("float32", "float64")),),
    walked=(5,),
    budgets=(("x_T", 10),),
    selective=("x_T",),
    empty=(20, 5),
    compiled=0,
    guided=(),
    mixture=(10,),
    samples=16,
    reference=1000,
    seconds=2.0,
    seeds=(0,),
    optimised=5,
)
#: Does everything run?  Figures of this size mean nothing.
TINY = Plan(
    rounds=1,
    timed=(("x_T", 3, CORE + SLOW + ADAPTIVE), ("cond", 3, CORE), ("weights", 3, CORE + SLOW), ("x_T", 4, ESSENTIAL)),
    untimed=(("weights", 4),),
    errors=((2, ("float32", "float64")),),
    walked=(2, 4),
    budgets=(("x_T", 8),),
    selective=("x_T",),
    empty=(3, 1),
    compiled=0,
    guided=(3,),
    guided_reference=6,
    mixture=(4, 6),
    samples=4,
    reference=40,
    seconds=0.5,
    seeds=(0,),
    optimised=2,
)
