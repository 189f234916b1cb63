"""Privacy: noise on what clients send, the accounting of it, and masks that leave only a sum."""

from fewbits.privacy.differential_privacy import DifferentialPrivacy
from fewbits.privacy.mechanism import GaussianMechanism, epsilon
from fewbits.privacy.pairwise_masking import PairwiseMasking

__all__ = ["DifferentialPrivacy", "GaussianMechanism", "PairwiseMasking", "epsilon"]
