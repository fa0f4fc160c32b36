"""Prefect flows. The only package that knows Prefect; it only calls `dct_augment.pipeline`."""

import os

import dct_augment  # noqa: F401 - it switches off what libraries would send

# Read once, when Prefect and Ray are imported: no analytics, also not from the temporary server of a run.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
