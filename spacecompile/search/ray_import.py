"""Ray, imported so that it reports to nobody and prints nothing: both are settled by its environment at import."""

from __future__ import annotations

import os
import warnings

# Usage statistics go to Ray's maker by default.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Tune prints a table of its own to stdout, which belongs to results.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Of its loggers the one for JSON is added by hand; nobody reads the others here.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# With 0, Ray leaves the variables that hide GPUs alone for a job that asked for none, as its next version does by
# itself and this one warns of. Such a job sees every GPU of its machine: `trial.device_for` keeps it on the processor.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import ray
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback
    from ray.tune.schedulers import ASHAScheduler

__all__ = ["ASHAScheduler", "JsonLoggerCallback", "ray", "tune"]
