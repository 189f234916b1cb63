"""Privacy: noise with an account of what it protects, and masks that reveal only a sum.

`GaussianMechanism` clips and adds noise, `epsilon` states the privacy loss of all rounds, `DifferentialPrivacy` is both
as a method uses them (`dp+`), and `PairwiseMasking` hides single updates from the server (`masked+`). The page on
secure aggregation states who is trusted with what.
"""

from fewbits.privacy.differential_privacy import DifferentialPrivacy
from fewbits.privacy.mechanism import GaussianMechanism, epsilon
from fewbits.privacy.pairwise_masking import PairwiseMasking

__all__ = ["DifferentialPrivacy", "GaussianMechanism", "PairwiseMasking", "epsilon"]
