"""Where a result comes from: the code that made it, its commit, and the machine.

The digest of the code says whether a result that is kept still follows from the code as it is.
"""

import ast
import hashlib
import importlib
import inspect
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scb_nb

# The modules that a result of training depends on.
CORE = [
    "validate",
    "kernels",
    "sampling",
    "stream",
    "chains",
    "task",
    "model",
    "objective",
    "geometry",
    "theory",
    "proximal",
    "screening",
    "state",
    "stages",
    "training",
]

# The modules that only start runs and keep what they return.
RUNNERS = ["scb_nb.provenance", "scb_nb.runs", "scb_nb.store", "scb_nb.sweeps", "scb_nb.workers"]


def code_digest(experiment: Callable[..., Any]) -> str:
    """Return a digest of the code that the experiment runs; comments, docstrings and layout do not count.

    That is the function and what it uses of its module, the modules of the package that all training runs, and those of
    the package from which its module imports functions or classes.

    Examples
    --------
    >>> from scb_nb.sweeps import recover
    >>> len(code_digest(recover))
    16
    """
    module = inspect.getmodule(experiment)
    core = [f"scb_nb.{name}" for name in CORE]
    origins = {getattr(value, "__module__", None) or "" for value in vars(module).values()}
    others = sorted(name for name in origins - {*core, *RUNNERS} if name.startswith("scb_nb."))
    own = _used_by(experiment.__name__, ast.parse(inspect.getsource(module)))  # type: ignore[arg-type]
    trees = [own, *(ast.parse(inspect.getsource(importlib.import_module(name))) for name in core + others)]
    for node in (node for tree in trees for node in ast.walk(tree)):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return checksum("".join(ast.dump(tree) for tree in trees))


def _used_by(name: str, tree: ast.Module) -> ast.Module:
    """Return what a function uses of its module, itself included."""
    definitions: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names = {statement.name}
        else:
            nodes = list(ast.walk(statement))
            names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            names |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
            if not names:  # it may change what it names, as X[0] = 1 does
                names = {node.id for node in nodes if isinstance(node, ast.Name)}
                names = set() if "__name__" in names else names
        for each in names:
            definitions.setdefault(each, []).append(statement)
    used: list[ast.stmt] = []
    pending = [name]
    while pending:
        for statement in definitions.pop(pending.pop(), []):
            if statement not in used:
                used.append(statement)
                pending += [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
    return ast.Module([statement for statement in tree.body if statement in used], [])


def commit() -> str:
    """Return the commit of the repository that the package lies in, with a + if files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run([*command, "diff", "--quiet", "HEAD", "--", "."], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+" if changed else "")


def here() -> dict[str, Any]:
    """Return the versions and the kind of machine that this process runs on."""
    versions = {"python": platform.python_version(), "scb_nb": scb_nb.__version__}
    versions |= {"numpy": np.__version__, "torch": torch.__version__}
    return {"versions": versions, "machine": f"{platform.machine()} {sys.platform}"}


def allocations() -> dict[str, int]:
    """Return how many tensors each GPU that this process uses has held so far, by its name and number."""
    if not torch.cuda.is_initialized():
        return {}
    return {
        f"{torch.cuda.get_device_name(i)} ({i})": torch.cuda.memory_stats(i).get("allocation.all.allocated", 0)
        for i in range(torch.cuda.device_count())
    }


def checksum(text: str) -> str:
    """Return a checksum of a text: 16 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
