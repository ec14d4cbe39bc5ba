"""Jobs that use gradients of images: a frozen, validated configuration in, a resumable run, a result out."""

from adjointdpm.tasks.inversion.config import InvertConfig
from adjointdpm.tasks.inversion.run import InvertResult, invert

__all__ = ["InvertConfig", "InvertResult", "invert"]
