"""The settings of an audit, validated before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from adjointdpm.tasks.audit.responsible import WORDS, record_of, refuse_address
from adjointdpm.tasks.settings import Positive, Seed, TaskConfig, quoted

__all__ = ["BASELINES", "AuditConfig", "Baseline", "LossName", "Mode", "Norm", "OptimiserName", "OutputKind"]

Mode = Literal["classifier", "filter"]
Norm = Literal["linf", "l2", "shell"]
LossName = Literal["margin", "cross_entropy", "dlr", "cosine"]
OptimiserName = Literal["sign", "adam", "apgd"]
OutputKind = Literal["auto", "logits", "probabilities", "log_probabilities", "one_logit", "one_probability"]
Baseline = Literal["random", "best_of_n", "one_step", "adjoint"]
BASELINES: tuple[Baseline, ...] = ("random", "best_of_n", "one_step", "adjoint")
Name = Annotated[str, Field(min_length=1)]


class AuditConfig(TaskConfig):
    """Which network, on which images, within which bound, by which means.

    A sample is a prompt with a noise; each prompt gets `noises` of them, sample i the noise of seed + i.  Samples are
    computed `batch_size` at a time, and the batches are what processes share and what a resumed run goes on with.

    `taus` bound the change δ of the initial noise (of unit variance): "linf" |δ| ≤ τ in every number, as in the paper;
    "l2" a root mean square of at most τ, so that it contains the former; "shell" the same on the sphere of the noise's
    own norm, where typical noise lies.
    """

    PAPER: ClassVar[Mapping[str, Any]] = {"norm": "linf"}

    mode: Mode = Field(default="classifier", description="Audit a classifier, or a content filter (rates only).")
    prompts: tuple[Name, ...] = Field(default=(), description="What is painted; empty: a few of the embedded model.")
    labels: tuple[int | str, ...] = Field(default=(), description="Class of each prompt: its number, or its name.")
    classes: tuple[Name, ...] = Field(default=(), description="Names of the network's outputs, in their order.")
    noises: int = Field(default=2, ge=1, description="Noises for each prompt.")
    seed: Seed = Field(default=0, description="Sample i starts from the noise of seed + i.")
    batch_size: int | None = Field(default=4, ge=1, description="Samples at once; None: all.")
    checkpoint_every: int = Field(default=1, ge=1, description="Batches between checkpoints.")
    generator: str | None = Field(default=None, description="module:function that makes the pipeline; None: --model.")
    generator_options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of that function.")

    network: str | None = Field(
        default=None,
        description="module:function, file.py:function, FILE.onnx, a folder of a transformers image classifier, "
        "safety_checker (the pipeline's own); None: the embedded model's classifier, or its food filter.",
    )
    outputs: OutputKind = Field(default="auto", description="What a classifier returns.")
    preprocessing: tuple[Name, ...] = Field(default=(), description="Steps before the network, module:function each.")
    target_class: int | str | None = Field(default=None, description="Targeted search: the class to reach.")
    judge: str | None = Field(
        default=None,
        description="Independent judge of whether the image still shows the class; None: that of the embedded model.",
    )
    transfer: tuple[Name, ...] = Field(default=(), description="Further classifiers that found images are shown to.")

    taus: tuple[Positive, ...] = Field(default=(0.1, 0.2, 0.4), min_length=1, description="Bounds, any order.")
    norm: Norm = Field(default="linf", description="What τ bounds.")
    loss: LossName | None = Field(default=None, description="margin in classifier mode, cosine in filter mode.")
    optimiser: OptimiserName = Field(default="sign", description="How the change is searched for.")
    iterations: int = Field(default=5, ge=1, description="Gradient steps for each bound and restart.")
    restarts: int = Field(default=1, ge=1, description="Starts for each bound; from the second on at random.")
    step_size: Positive | None = Field(default=None, description="As a share of τ; sign 0.25, Adam 0.25, APGD 2.")
    baselines: tuple[Baseline, ...] = Field(default=BASELINES, description="What the gradients are compared with.")

    images: bool = Field(default=False, description="Write images and noises found (classifier mode only).")
    owner: str | None = Field(default=None, description="Who runs the filter (filter mode).")
    purpose: str | None = Field(default=None, description="What the audit is for (filter mode).")

    harden: bool = Field(default=False, description="Fine-tune the network on what is found, and audit it again.")
    harden_rounds: int = Field(default=2, ge=1, description="Search and fine-tuning, so many times in turn.")
    harden_steps: int = Field(default=100, ge=1, description="AdamW steps of each round.")
    harden_lr: Positive = Field(default=3e-4, description="Learning rate of the fine-tuning.")
    held_out_noises: int = Field(default=2, ge=1, description="Noises for each prompt of the audit before and after.")
    control_prompts: tuple[Name, ...] = Field(
        default=(), description="Images whose verdict shall stay; empty: other objects of the embedded model."
    )

    @classmethod
    def paper(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """A.3: τ 0.8 and a targeted cross-entropy for the classifier, τ 0.9 and the cosine for the filter."""
        if given.get("mode") == "filter":
            return {**cls.PAPER, "taus": (0.9,), "loss": "cosine"}
        return {**cls.PAPER, "taus": (0.8,), "loss": "cross_entropy"}

    @model_validator(mode="before")
    @classmethod
    def _words(cls, data: Any) -> Any:
        given = data if isinstance(data, Mapping) else {}
        hashed = [name for name in WORDS if isinstance(given.get(name), Mapping)]  # from the record of a filter's run
        if hashed:
            raise ValueError(f"{quoted(hashed)}: filter mode does not write words down; give them again to resume")
        return data

    @field_validator("baselines", mode="before")
    @classmethod
    def _none_is_none(cls, names: Any) -> Any:
        return () if isinstance(names, (list, tuple)) and list(names) == ["none"] else names

    @field_validator("taus")
    @classmethod
    def _ascending(cls, taus: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(taus)))

    @field_validator("network", "judge", "generator")
    @classmethod
    def _local(cls, name: str | None) -> str | None:
        return name if name is None else refuse_address(name)

    @field_validator("transfer", "preprocessing")
    @classmethod
    def _all_local(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(refuse_address(name) for name in names)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.labels and len(self.labels) not in (1, len(self.prompts)):
            raise ValueError(
                f"{len(self.labels)} labels for {len(self.prompts)} prompts: give one for each, or one for all"
            )
        if self.norm == "shell" and self.taus[-1] > 2:
            raise ValueError(f"`taus`={self.taus[-1]:g} on the shell: two points of a sphere are at most 2 radii apart")
        if self.generator_options and self.generator is None:
            raise ValueError("`generator_options` are for `generator`; none is given")
        if not self.harden:
            hardening = ("harden_rounds", "harden_steps", "harden_lr", "held_out_noises", "control_prompts")
            self.refuse_idle("without `harden`", *hardening)
        if self.mode == "filter":
            self._check_filter()
        elif self.loss == "cosine":
            raise ValueError("`loss`='cosine' is for filter mode; a classifier takes margin, cross_entropy or dlr")
        return self

    def _check_filter(self) -> None:
        missing = [name for name in ("owner", "purpose") if not (getattr(self, name) or "").strip()]
        if missing:
            raise ValueError(
                f"filter mode needs {quoted(missing, ' and ')}: who runs the filter, and what the audit is for; both "
                "are printed in the report"
            )
        if self.images:
            raise ValueError("`images`: filter mode writes rates only, no images, noises or embeddings")
        if self.tracker == "wandb":
            raise ValueError(
                "`tracker`='wandb' records the command line and what is printed, and with them the prompts; filter "
                "mode takes tensorboard or none"
            )
        of_classes = ("labels", "target_class", "transfer", "classes", "outputs", "preprocessing")
        self.refuse_idle("in filter mode, where the verdict is flagged or not; they are for a classifier", *of_classes)
        if self.loss not in (None, "cosine"):
            raise ValueError(f"`loss`={self.loss!r} is for classifier mode; a filter takes cosine")

    @property
    def loss_name(self) -> LossName:
        """The loss that is taken."""
        return self.loss or ("cosine" if self.mode == "filter" else "margin")

    @property
    def relative_step(self) -> float:
        """The step as a share of τ."""
        return self.step_size or (2.0 if self.optimiser == "apgd" else 0.25)

    def bound_text(self, tau: float) -> str:
        """The bound in words."""
        return {
            "linf": f"‖δ‖∞ ≤ {tau:g}",
            "l2": f"rms(δ) ≤ {tau:g}",
            "shell": f"rms(δ) ≤ {tau:g} at constant norm",
        }[self.norm]

    def shown(self) -> AuditConfig:
        """The settings as they may be printed: in filter mode with placeholders for the words of prompts."""
        places: dict[str, Any] = {"prompts": ("PROMPT...",), "negative_prompt": "TEXT", "control_prompts": ("TEXT...",)}
        hidden = {name: places[name] for name in WORDS if self.mode == "filter" and getattr(self, name)}
        return self.model_copy(update=hidden)

    @property
    def _free(self) -> frozenset[str]:
        return super()._free - {"batch_size"}  # batches are what an interrupted run has done

    def identity(self) -> dict[str, Any]:
        """What must agree on resume.  In filter mode without the prompts' own words, since it is written down."""
        found = super().identity()
        return record_of(found) if self.mode == "filter" else found
