"""Another Python that finds what this one finds: how it is started.

What a script has put on `sys.path` (a zipped application, a folder of packages) is found there too, in its order.
The folder in which it is started is not looked into, which may hold a `random.py` of somebody's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_FIND = f"import runpy, sys; sys.path[:] = sys.argv.pop(1).split({os.pathsep!r})\n"


def python(code: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    """The command that runs this code there; `options` are the interpreter's own."""
    found = os.pathsep.join(str(Path(one).absolute()) for one in sys.path if one)
    return [sys.executable, "-P", *options, "-c", _FIND + code, found, *arguments]


def python_module(name: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    """The command that runs this module there, as `python -m` does."""
    code = f"runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    return python(code, *arguments, options=options)
