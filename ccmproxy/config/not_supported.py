"""Features of the file format that the program does not have yet: they are refused, never ignored.

When a feature is implemented, its line in :data:`NOT_SUPPORTED` is removed; nothing else has to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ccmproxy.config.problems import Path, Report


@dataclass(frozen=True, slots=True)
class Feature:
    """Part of the format.

    ``path``: as an operator writes it, ``[]`` for any entry. ``value``: the feature is this value only; None = any
    value. A value that means "not given" (empty, false, 0, null) never counts.
    """

    path: str
    value: str | bool | None = None


NOT_SUPPORTED: tuple[Feature, ...] = (
    Feature("services[].tls"),
    Feature("services[].usages_path"),
    Feature("services[].credentials[].usages_path"),
    Feature("prices"),
    Feature("services[].trusted_proxies"),
)


def check_supported(document: Any, report: Report) -> None:
    """Report every use of a feature that is not supported yet."""
    for feature in NOT_SUPPORTED:
        for path, value in _find(feature.path.split("."), document, ()):
            if _is_given(value) and feature.value in (None, value):
                what = (
                    f"{value} is not supported yet"
                    if isinstance(feature.value, str)
                    else "is not supported yet"
                )
                report.add(path, what)


def is_supported(path: str, value: str) -> bool:
    """Whether this value can be used at ``path`` (written as in the table)."""
    return not any(each.path == path and each.value in (None, value) for each in NOT_SUPPORTED)


def _is_given(value: Any) -> bool:
    switched_off = isinstance(value, dict) and value.get("enabled") is False
    return bool(value) and not switched_off


def _find(pattern: list[str], value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if not pattern:
        yield path, value
        return
    name, *rest = pattern
    if not isinstance(value, dict) or name.removesuffix("[]") not in value:
        return
    path, value = (*path, name.removesuffix("[]")), value[name.removesuffix("[]")]
    if not name.endswith("[]"):
        yield from _find(rest, value, path)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _find(rest, each, (*path, index))
