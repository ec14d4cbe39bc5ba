"""Stylization (paper 4.2 and A.2): the denoiser is fine-tuned until every image has the style of one reference."""

from adjointdpm.tasks.stylize.config import StylizeConfig
from adjointdpm.tasks.stylize.run import StylizeResult, stylize_model

__all__ = ["StylizeConfig", "StylizeResult", "stylize_model"]
