"""Jobs that use gradients of images: a frozen, validated configuration in, a resumable run, a result out."""

from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.run import AuditResult, run_audit
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.outcome import GuideResult
from adjointdpm.tasks.guide.run import guide_images
from adjointdpm.tasks.inversion.config import InvertConfig
from adjointdpm.tasks.inversion.run import InvertResult, invert
from adjointdpm.tasks.reward.config import RewardConfig
from adjointdpm.tasks.reward.run import RewardResult, maximise_reward
from adjointdpm.tasks.stylize.config import StylizeConfig
from adjointdpm.tasks.stylize.run import StylizeResult, stylize_model
from adjointdpm.tasks.table1.config import Table1Config
from adjointdpm.tasks.table1.run import Table1Result, reproduce_table1

__all__ = [
    "AuditConfig",
    "AuditResult",
    "GuideConfig",
    "GuideResult",
    "InvertConfig",
    "InvertResult",
    "RewardConfig",
    "RewardResult",
    "StylizeConfig",
    "StylizeResult",
    "Table1Config",
    "Table1Result",
    "guide_images",
    "invert",
    "maximise_reward",
    "reproduce_table1",
    "run_audit",
    "stylize_model",
]
