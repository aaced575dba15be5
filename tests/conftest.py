"""CI tries the same examples every time; everyone else's runs go on exploring.

`HYPOTHESIS_PROFILE=many pytest tests/property` looks longer: 4,000 examples of each property.
"""

from __future__ import annotations

import os

from hypothesis import settings

# The machine is shared: how long an example took says nothing.
settings.register_profile("ours", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("many", deadline=None, max_examples=4000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "ours")
)
