#!/usr/bin/env python3
"""A response that rises somewhere: simulate.py X. It stands for hours of simulation."""

import json
import math
import sys
from pathlib import Path

response = math.tanh(12 * (float(sys.argv[1]) - 0.37))
Path("result.json").write_text(json.dumps({"loss": response}), "utf-8")
