"""The service of wire-1.zip with its own scripted engine: python serve_wire_1.py SETTINGS_AS_JSON.

It imports the modules of that service, so it runs with PYTHONPATH set to the unpacked archive.
"""

from __future__ import annotations

import json
import sys

from capo_service.engine.scripted import ScriptedEngine, nothing_wrong

from capo_service import commands
from capo_service.settings import Settings

if __name__ == "__main__":
    engine = ScriptedEngine(nothing_wrong)
    commands.make_engine = lambda settings: engine
    sys.exit(commands.run(Settings(**json.loads(sys.argv[1]))))
