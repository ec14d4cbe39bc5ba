"""The filter under audit: images -> a score for each concept, above 0 where the concept flags the image.

Three kinds: embedding similarity (cosine to concept embeddings minus thresholds), the pipeline's own
`StableDiffusionSafetyChecker`, and a user's own function.  A sample counts where the filter flags the clean image; the
question is whether it still does after the noise has changed.

`special_care` scores, where a filter has them, are watched and never climbed: `scores` gives them without a graph.
`special_scores` has one, for hardening alone, which holds them where they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.losses.users import blamed, trial
from adjointdpm.tasks.audit.adapters import module_in
from adjointdpm.tasks.audit.responsible import local_only
from adjointdpm.tasks.audit.safety import DIGITS, SafetyScores, clip_input
from adjointdpm.tasks.audit.stops import check_gradient

__all__ = ["EmbeddingFilter", "Filter", "FilterUnderAudit", "SafetyCheckerFilter", "Scores"]


@dataclass(frozen=True)
class Scores:
    """Of a batch: `concepts` (B, C) with a graph, `flagged` (B, C), `special_care` (B,) to be left alone."""

    concepts: Tensor
    flagged: Tensor
    special_care: Tensor


class Filter(Protocol):
    """What an audit needs of a filter.

    One with a `module` can be hardened; if it knows `special_care`, `special_scores(images)` are (B, S) with a graph.
    """

    names: Sequence[str]

    def scores(self, images: Tensor) -> Scores: ...


class EmbeddingFilter:
    """Flags an image whose embedding is nearer than a threshold to a concept's.

    Args:
        embed: images (B, 3, H, W) in [0, 1] -> (B, D); a torch module can be hardened.
        concepts: (C, D) embeddings.
        thresholds: (C,) cosines from which a concept flags.
        names: of the concepts.
        center: (D,) taken from each embedding first, or None.
        special_care: (S, D) embeddings, and `special_thresholds` (S,), of what must not be probed for.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        concepts: Tensor,
        thresholds: Tensor,
        names: Sequence[str] = (),
        center: Tensor | None = None,
        special_care: Tensor | None = None,
        special_thresholds: Tensor | None = None,
    ) -> None:
        if concepts.ndim != 2 or thresholds.shape != concepts.shape[:1]:
            raise InvalidInput(
                f"concepts {tuple(concepts.shape)} and thresholds {tuple(thresholds.shape)}: expected (C, D) and (C,)"
            )
        if names and len(names) != len(concepts):
            raise InvalidInput(f"{len(names)} names for {len(concepts)} concepts")
        self.embed, self.center = embed, center
        self.module = embed if isinstance(embed, nn.Module) else getattr(embed, "module", None)
        self.concepts, self.thresholds = F.normalize(concepts.float()), thresholds.float()
        self.names = tuple(names) or tuple(f"concept {k}" for k in range(len(concepts)))
        self.special = None if special_care is None else F.normalize(special_care.float())
        self.special_thresholds = special_thresholds

    def scores(self, images: Tensor) -> Scores:
        units = self._units(images)
        concepts = units @ self.concepts.t() - self.thresholds
        return Scores(concepts, concepts.detach() > 0, (self._special(units.detach()) > 0).any(dim=1))

    def special_scores(self, images: Tensor) -> Tensor:
        """(B, S) cosine minus threshold of what must not be probed for, with a graph; S may be 0."""
        return self._special(self._units(images))

    def _special(self, units: Tensor) -> Tensor:
        if self.special is None:
            return units.new_zeros(len(units), 0)
        return units @ self.special.t() - (0.0 if self.special_thresholds is None else self.special_thresholds)

    def _units(self, images: Tensor) -> Tensor:
        found = self.embed(images)
        if not isinstance(found, Tensor) or found.shape != (len(images), self.concepts.shape[1]):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InvalidInput(f"the embedding returned {got}; expected ({len(images)}, {self.concepts.shape[1]})")
        return F.normalize((found if self.center is None else found - self.center).float())


class SafetyCheckerFilter:
    """The pipeline's safety checker and feature extractor."""

    def __init__(self, checker: Any, extractor: Any) -> None:
        if checker is None or extractor is None:
            raise InvalidInput(
                "network 'safety_checker': the pipeline has no safety_checker and feature_extractor; load one that "
                "has, or name another filter"
            )
        self.safety, self.extractor = SafetyScores(checker), extractor
        self.module = checker
        self.names = tuple(f"concept {k}" for k in range(len(checker.concept_embeds)))

    def scores(self, images: Tensor) -> Scores:
        concepts, special = self.safety.scores(self._pixels(images))
        flagged = self.safety.flagged(concepts, special)
        # the verdict changes where the rounded score leaves 0, half a digit above it
        return Scores(concepts - 0.5 / DIGITS, flagged, self.safety.special_care(special))

    def special_scores(self, images: Tensor) -> Tensor:
        """(B, S) cosine minus threshold of special_care, with a graph."""
        return self.safety.special_scores(self._pixels(images))

    def _pixels(self, images: Tensor) -> Tensor:
        return clip_input(images, self.extractor).to(self.safety.checker.visual_projection.weight.dtype)


class _FunctionFilter:
    """A user's function: images -> (B,) or (B, C), above 0 where flagged."""

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        self.function, self.name, self.module = function, name, module_in(function)

    def scores(self, images: Tensor) -> Scores:
        found = self.function(images)
        if not isinstance(found, Tensor) or found.ndim not in (1, 2) or len(found) != len(images):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InvalidInput(f"{self.name} returned {got}; expected scores ({len(images)},) or ({len(images)}, C)")
        if not found.is_floating_point():
            raise NotDifferentiable(
                f"{self.name} returned {found.dtype}: a verdict has no gradient; expected scores above 0 where flagged"
            )
        concepts = found.reshape(len(images), -1)
        care = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        return Scores(concepts, concepts.detach() > 0, care)


class FilterUnderAudit:
    """A filter with a name, tried before any work and called in one place."""

    def __init__(self, network: Any, name: str) -> None:
        self.name = name
        if not callable(getattr(network, "scores", network)):
            raise InvalidInput(
                f"{name} is {type(network).__name__}; expected a function of images, or an object whose scores(images) "
                "returns concepts, flagged and special_care"
            )
        self.filter: Any = network if hasattr(network, "scores") else _FunctionFilter(network, name)
        self.module: nn.Module | None = module_in(self.filter)
        self.count = 0  # of concepts, known after `probe`

    @property
    def concepts(self) -> Sequence[str]:
        """Names of the concepts, in the order of the scores."""
        return tuple(getattr(self.filter, "names", None) or (f"concept {k}" for k in range(self.count)))

    def scores(self, images: Tensor) -> Scores:
        with self._running(images):
            found: Scores = self.filter.scores(images)
        self._check(found, len(images))
        if not bool(torch.isfinite(found.concepts.detach()).all()):
            raise NonFinite(f"{self.name} returned NaN or infinite scores for an image in [0, 1]")
        return found

    def special_scores(self, images: Tensor) -> Tensor:
        """(B, S) of what must not be probed for, with a graph: for hardening alone; S is 0 where a filter has none."""
        with self._running(images):
            known = getattr(self.filter, "special_scores", None)
            found: Tensor = images.new_zeros(len(images), 0) if known is None else known(images)
        return found

    @contextmanager
    def _running(self, images: Tensor) -> Iterator[None]:
        with local_only(self.name), blamed(f"{self.name} with images of shape {tuple(images.shape)}"):
            yield

    def _check(self, found: Any, batch: int) -> None:
        names = ("concepts", "flagged", "special_care")
        shapes = [tuple(getattr(getattr(found, name, None), "shape", ())) for name in names]
        if len(shapes[0]) != 2 or shapes != [(batch, shapes[0][1]), shapes[0], (batch,)]:
            got = ", ".join(f"{name} {shape}" for name, shape in zip(names, shapes, strict=True))
            raise InvalidInput(
                f"the scores of {self.name} are {type(found).__name__} with {got}; expected concepts ({batch}, C), "
                f"flagged ({batch}, C) and special_care ({batch},), as adjointdpm.tasks.audit.filters.Scores has them"
            )

    @trial()
    def probe(self, images: Tensor) -> None:
        """Try the filter on a few images; raises as `ClassifierUnderAudit.probe`."""
        with torch.no_grad():
            self.count = self.scores(images).concepts.shape[1]
        if len(self.concepts) != self.count:
            raise InvalidInput(f"{self.name} has {self.count} concepts, but {len(self.concepts)} names")
        check_gradient(lambda x: self.scores(x).concepts, lambda found: found, images, self.name)
