"""CI tries the same examples every time; everyone else's runs go on exploring."""

from __future__ import annotations

import os

from hypothesis import settings

# The machine is shared: how long an example took says nothing.
settings.register_profile("ours", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "ours")
