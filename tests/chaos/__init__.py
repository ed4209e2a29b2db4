"""Real processes, killed, starved and lied to: what must hold of them is written as laws.

`python -m tests.chaos` runs the long form and writes docs/promises.md.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does: `simulation` is found however this was started
