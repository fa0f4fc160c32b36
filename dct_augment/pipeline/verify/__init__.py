"""Checks every file of a run folder against its hash, and against the files that it belongs to."""

from dct_augment.pipeline.verify.problem import CONFIG, GUIDES, LOOK, Problem
from dct_augment.pipeline.verify.run_folder import Findings, verify

__all__ = ["CONFIG", "GUIDES", "LOOK", "Findings", "Problem", "verify"]
