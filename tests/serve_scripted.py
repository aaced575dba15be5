"""`capo serve` with a scripted engine: python serve_scripted.py SETTINGS_AS_JSON DELAY."""

from __future__ import annotations

import json
import sys

from capo_service import commands
from capo_service.engine.scripted import ScriptedEngine
from capo_service.settings import Settings

if __name__ == "__main__":
    engine = ScriptedEngine(delay=float(sys.argv[2]))
    commands.make_engine = lambda settings: engine
    sys.exit(commands.run(Settings(**json.loads(sys.argv[1]))))
