"""The validator: whether a dataset is what SPEC.md says, and if not, where and what to do.

It never trusts what it checks: an object that breaks a check is a finding, never the end of the validation.
"""

from __future__ import annotations

from schemas.validator.codes import Code, Severity
from schemas.validator.findings import LEVELS, Finding, Level, Report
from schemas.validator.run import validate

__all__ = ["LEVELS", "Code", "Finding", "Level", "Report", "Severity", "validate"]
