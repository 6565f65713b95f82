"""Puts the package and the test equipment (`kit`) on the path, whatever directory pytest was started in."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
