"""The word problems of the benchmark are problems for tests too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
