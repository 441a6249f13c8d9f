"""The package's source as syntax trees: what :mod:`tests.test_layers` and :mod:`tests.test_conventions` look at."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "ccmproxy"


@dataclass(frozen=True)
class Module:
    """One source file. ``name`` is dotted; ``is_package`` is True for an ``__init__.py``."""

    name: str
    tree: ast.Module
    is_package: bool = False


@dataclass(frozen=True)
class Import:
    """One imported module or name. ``target`` is dotted; ``deferred``: not executed when the module is imported."""

    target: str
    line: int
    type_checking: bool
    deferred: bool


def is_ours(name: str) -> bool:
    """Does this dotted name lie in the package?"""
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


def parse(name: str, text: str, is_package: bool = False) -> Module:
    """A module from its text. Raises SyntaxError."""
    return Module(name, ast.parse(text), is_package)


@functools.cache
def read_package(root: Path = ROOT) -> Mapping[str, Module]:
    """Every module of the package under ``root``, by its dotted name."""
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules[name] = parse(name, path.read_text(encoding="utf-8"), is_package)
    return modules


def imports(module: Module, known: Mapping[str, Module]) -> Iterator[Import]:
    """Everything that ``module`` imports.

    ``from a import b`` names ``a.b`` where that is a module (of ours: one of ``known``; of others: always, which
    does no harm, because rules speak of prefixes), and ``a`` otherwise.
    """
    yield from _walk(module.tree, module, known, type_checking=False, deferred=False)


def _walk(
    node: ast.AST, module: Module, known: Mapping[str, Module], type_checking: bool, deferred: bool
) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, type_checking, deferred)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node, module)
        for alias in node.names:
            full = f"{base}.{alias.name}"
            target = full if full in known or not is_ours(base) else base
            yield Import(target, node.lineno, type_checking, deferred)
    elif isinstance(node, ast.If) and _is_type_checking(node.test):
        for statement in node.body:
            yield from _walk(statement, module, known, True, deferred)
        for statement in node.orelse:
            yield from _walk(statement, module, known, type_checking, deferred)
    else:
        deferred = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, module, known, type_checking, deferred)


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    anchor = parts[: len(parts) - node.level + (1 if module.is_package else 0)]
    return ".".join([*anchor, node.module] if node.module else anchor)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )
