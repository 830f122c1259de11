"""Metrics: two batches of maps, or maps and masks, in; one number per example out; the caller reduces."""

from veridical.metrics.complexity import histogram_entropy
from veridical.metrics.intervals import Interval, mean_interval, proportion_interval
from veridical.metrics.localisation import (
    area_share,
    auc,
    cosine_within,
    left_behind,
    mass_share,
    pointing_game,
    topk_curve,
    topk_share,
    zero_share,
)
from veridical.metrics.rank import kendall_tau, kendall_tau_nonzero, spearman
from veridical.metrics.sensitivity import max_sensitivity
from veridical.metrics.spatial import (
    mass_centre,
    mass_centre_shift,
    ssim,
    topk_intersection,
    topk_mask,
    windowed_topk_intersection,
)

__all__ = [
    "Interval",
    "area_share",
    "auc",
    "cosine_within",
    "histogram_entropy",
    "kendall_tau",
    "kendall_tau_nonzero",
    "left_behind",
    "mass_centre",
    "mass_centre_shift",
    "mass_share",
    "max_sensitivity",
    "mean_interval",
    "pointing_game",
    "proportion_interval",
    "spearman",
    "ssim",
    "topk_curve",
    "topk_intersection",
    "topk_mask",
    "topk_share",
    "windowed_topk_intersection",
    "zero_share",
]
