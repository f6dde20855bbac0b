"""Arrays in, numbers out: features [N, D] of generated and reference images, always in that order; numpy alone at import.

frechet          Fréchet distance (FID)
frechet_infinity the same with its bias extrapolated away (FID-infinity)
precision_recall precision, recall, density, coverage, exact and blockwise; lower_bounds: its products, on any device
kernel           kernel distance (KID), the full U-statistic and the subset form
cmmd             CLIP maximum mean discrepancy (CMMD), biased, Gaussian kernel
diversity        of the images of one caption: mean pairwise distance, Vendi score
paired_cosine    cosine of each image with its caption (CLIP score, HPS)
uncertainty      standard errors and intervals; blocks: of numbers that have no formula for it
comparison       differences, paired or not, one or many

A newcomer may add a file with a function of arrays; nothing here knows networks, suites or files.
"""

from sbv2bench.metrics.cmmd import cmmd
from sbv2bench.metrics.diversity import mean_pairwise_distance, vendi_score
from sbv2bench.metrics.frechet import frechet_distance
from sbv2bench.metrics.kernel import kernel_distance
from sbv2bench.metrics.precision_recall import precision_recall

__all__ = ["cmmd", "frechet_distance", "kernel_distance", "mean_pairwise_distance", "precision_recall", "vendi_score"]
