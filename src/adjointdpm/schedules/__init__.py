"""Noise schedules alpha(t), sigma(t), and the grids of times on which a sampler steps."""

from adjointdpm.schedules.base import Schedule
from adjointdpm.schedules.config import from_scheduler_config, grid_options_from_config
from adjointdpm.schedules.discrete import VPDiscrete
from adjointdpm.schedules.flow import EDM, RectifiedFlow
from adjointdpm.schedules.grids import Grid, Spacing, make_grid
from adjointdpm.schedules.vp import VPCosine, VPLinear

__all__ = [
    "EDM",
    "Grid",
    "RectifiedFlow",
    "Schedule",
    "Spacing",
    "VPCosine",
    "VPDiscrete",
    "VPLinear",
    "from_scheduler_config",
    "grid_options_from_config",
    "make_grid",
]
