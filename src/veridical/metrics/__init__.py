"""Metrics: two batches of maps in, one number per example out; the caller reduces."""

from veridical.metrics.displacement import mass_centre, mass_centre_shift
from veridical.metrics.intervals import Interval, mean_interval, proportion_interval
from veridical.metrics.overlap import topk_intersection, topk_mask, windowed_topk_intersection
from veridical.metrics.rank import kendall_tau, spearman
from veridical.metrics.sensitivity import max_sensitivity

__all__ = [
    "Interval",
    "kendall_tau",
    "mass_centre",
    "mass_centre_shift",
    "max_sensitivity",
    "mean_interval",
    "proportion_interval",
    "spearman",
    "topk_intersection",
    "topk_mask",
    "windowed_topk_intersection",
]
