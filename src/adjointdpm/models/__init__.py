"""From a network's output to a prediction: dtype border, conversion table, guidance."""

from adjointdpm.models.convert import PredictionKind
from adjointdpm.models.denoiser import Branches, Denoiser
from adjointdpm.models.guidance import Counter, GuidedDenoiser
from adjointdpm.models.network import NetworkCall, refuse_noisy_modules
from adjointdpm.models.prediction import Prediction

__all__ = [
    "Branches",
    "Counter",
    "Denoiser",
    "GuidedDenoiser",
    "NetworkCall",
    "Prediction",
    "PredictionKind",
    "refuse_noisy_modules",
]
