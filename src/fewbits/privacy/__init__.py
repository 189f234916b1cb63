"""Privacy: noise with an account of what it protects, and masks that reveal only a sum.

`GaussianMechanism` clips and adds noise. `epsilon` and `local_epsilon` state the privacy loss of all rounds, against
those who see the models and against the server. `DifferentialPrivacy` is the noise as a method uses it (`dp+`), and
`PairwiseMasking` hides single updates from the server (`masked+`), by the protocol of `secure_sum`. The page on secure
aggregation states who is trusted with what.
"""

from fewbits.privacy.accountant import epsilon, local_epsilon
from fewbits.privacy.differential_privacy import DifferentialPrivacy
from fewbits.privacy.mechanism import GaussianMechanism
from fewbits.privacy.pairwise_masking import PairwiseMasking

__all__ = ["DifferentialPrivacy", "GaussianMechanism", "PairwiseMasking", "epsilon", "local_epsilon"]
