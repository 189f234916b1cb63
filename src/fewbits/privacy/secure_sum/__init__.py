"""Secure sum: a server learns the sum of clients' words and nothing else, also when some clients drop out.

The protocol of Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017, section
4, without input or output: `ClientEnd` and `ServerEnd` take bytes and give bytes. An engine carries them.
"""

from fewbits.privacy.secure_sum.client_end import ClientEnd
from fewbits.privacy.secure_sum.server_end import ServerEnd

__all__ = ["ClientEnd", "ServerEnd"]
