"""The cost of random numbers: xdev's beside each framework's own generator; the work is in `_draws`.

The folder of a script comes first where Python looks for modules: whoever imports Python's own module of this name
from a script here finds this file, and must get the other one.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

if __name__ == "random":
    _elsewhere = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]
    _spec = importlib.machinery.PathFinder.find_spec("random", _elsewhere)
    if _spec is None or _spec.loader is None:
        raise ImportError("Python's own module random is not to be found")
    sys.modules["random"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["random"])
elif __name__ == "__main__":
    from _draws import main

    main()
