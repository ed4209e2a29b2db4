"""A function of the user's, by its name `module:function`: the grader's way out of the job file.

Importing runs the module's code, so it happens when a run starts or scores anew, never while a job is read.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from crun_batch.errors import InputError, Mistake
from crun_batch.paths import is_file


def load_function(reference: str, *, base_dir: Path, source: str | None = None, key: str) -> Callable[..., Any]:
    """The function that `reference` names: of a file `module.py` in `base_dir`, or of an importable module.

    Raises InputError, with `source` and `key` as its place, where there is none or its module fails to import.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = _module(module_name, base_dir)
    except Exception as error:
        message = f"the module {module_name} cannot be imported: {type(error).__name__}: {error}"
        raise InputError(Mistake(message, file=source, key=key)) from error
    function = getattr(module, name, None)
    if not callable(function):
        place = getattr(module, "__file__", None) or module_name
        raise InputError(Mistake(f"there is no function {name} in {place}", file=source, key=key))
    return function  # type: ignore[no-any-return]


def _module(name: str, base_dir: Path) -> ModuleType:
    file = base_dir.resolve() / Path(*name.split(".")).with_suffix(".py")
    if not is_file(file):
        return importlib.import_module(name)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(file):
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
