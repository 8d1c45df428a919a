"""Fakes and helpers of the serving tests."""

import sys
from pathlib import Path

# The fakes are modules of their own, because a worker process has to import them as well.
sys.path.insert(0, str(Path(__file__).parent))
