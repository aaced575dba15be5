"""`capo serve` with a scripted engine: python serve_scripted.py SETTINGS_AS_JSON DELAY.

A rollout with GIBBERISH in it makes the judge answer what cannot be read.
"""

from __future__ import annotations

import json
import sys

from capo_service.cli import serve
from capo_service.engine.base import CritiqueSampling
from capo_service.settings import Settings
from kit_scripted import ScriptedEngine, nothing_wrong


def script(prompt: str, sampling: CritiqueSampling) -> str:
    return "no verdict" if "GIBBERISH" in prompt else nothing_wrong(prompt, sampling)


if __name__ == "__main__":
    engine = ScriptedEngine(script, delay=float(sys.argv[2]))
    serve.make_backend = lambda settings: engine
    model = {"model": "embedded"}  # its template and style are the built-in ones
    sys.exit(serve.run(Settings(**model | json.loads(sys.argv[1]))))
