"""How much chance the tests that search at random get: FEWBITS_THOROUGH=1 gives them more."""

import os

THOROUGH = os.environ.get("FEWBITS_THOROUGH") == "1"
