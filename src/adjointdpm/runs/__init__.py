"""Runs that survive: one folder per run, atomic files, checkpoints without pickle, resume bit for bit.

Nothing here knows of diffusion.  A task opens a `RunFolder`, which locks it and compares the configuration with the
one found there, saves a `Checkpoint` every few steps, and asks a `GracefulStop` whether a signal came.
"""

from adjointdpm.runs.atomic import OutputError, atomic_write, load_tensors, save_tensors
from adjointdpm.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from adjointdpm.runs.environment import environment, environment_differences, random_state, set_random_state
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.lock import FolderLock
from adjointdpm.runs.log import JsonlLog, read_jsonl
from adjointdpm.runs.signals import GO_ON, GracefulStop, RunInterrupted

__all__ = [
    "GO_ON",
    "Checkpoint",
    "FolderLock",
    "GracefulStop",
    "JsonlLog",
    "OutputError",
    "RunFolder",
    "RunInterrupted",
    "atomic_write",
    "environment",
    "environment_differences",
    "load_checkpoint",
    "load_tensors",
    "random_state",
    "read_jsonl",
    "save_checkpoint",
    "save_tensors",
    "set_random_state",
]
