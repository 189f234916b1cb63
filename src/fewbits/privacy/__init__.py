"""Privacy: the Gaussian mechanism, its accounting, and masks that reveal only a sum."""

from fewbits.privacy.differential_privacy import DifferentialPrivacy
from fewbits.privacy.mechanism import GaussianMechanism, epsilon
from fewbits.privacy.pairwise_masking import PairwiseMasking

__all__ = ["DifferentialPrivacy", "GaussianMechanism", "PairwiseMasking", "epsilon"]
