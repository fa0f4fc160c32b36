"""Asks the stages of a finished run what is missing, and fails if anything is: `CONFIGURATION`."""

import sys

from benchmarks import finished_run
from dct_augment import Run, config

if __name__ == "__main__":
    finished_run.look(Run(config.load(sys.argv[1])))
