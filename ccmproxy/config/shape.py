"""Validates a document against the schema, and reports problems in an operator's words instead of pydantic's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ccmproxy.config import credential_options as credentials
from ccmproxy.config import outbound_options as outbounds
from ccmproxy.config import schema
from ccmproxy.config.option_types import BRANCH
from ccmproxy.config.problems import Path, Report

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    (str, "text"),
    ((int, float), "a number"),
    (list, "a list"),
    (Mapping, "a mapping"),
)
_EXPECTED = {
    "string_type": "text",
    "secret_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "union_tag_not_found": "a mapping",
}
_BOUNDS = {
    "less_than_equal": ("le", "at most"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "greater_than": ("gt", "more than"),
}
#: What is expected → text that would be that if it were not in quotes.
_UNQUOTED = {
    "true or false": re.compile(r"true|false"),
    "a whole number": re.compile(r"-?[0-9]{1,12}"),
    "a number": re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,6})?"),
}
ONLY_SERVICES = 'of a sing-box configuration only "services", "outbounds" and "log" are read: remove it'
#: Path of a mapping → options that it has in a configuration of sing-box, whose "services" can be moved here (spec 1).
_SING_BOX: Mapping[Path, frozenset[str]] = {
    (): frozenset({"certificate", "dns", "endpoints", "experimental", "inbounds", "ntp", "route"}),
    ("log",): frozenset({"disabled", "output", "timestamp"}),
}
#: Every mapping of options in the file with the name that operators know: used to say where a misplaced option belongs.
_PLACES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("the top of the file", schema.FileOptions),
    ("a service", schema.ServiceOptions),
    ('a service\'s "upstream"', schema.UpstreamOptions),
    ("a user", schema.UserOptions),
    ('an entry of "credentials"', credentials.DefaultCredential),
    ("an external credential", credentials.ExternalCredential),
    ("a balancer", credentials.BalancerCredential),
    ('a service\'s "tls"', schema.TLSOptions),
    ("an outbound", outbounds.HTTPOutboundOptions),
)


def check_shape(document: Mapping[str, Any], report: Report) -> schema.FileOptions | None:
    """The options of ``document``; None if a problem was reported."""
    try:
        return schema.FileOptions.model_validate(document)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _report(detail, document, report)
        return None


def options_at(path: Path, document: Mapping[str, Any]) -> type[BaseModel] | None:
    """The model of the mapping at ``path``; None where the names are free to choose."""
    match path:
        case ():
            return schema.FileOptions
        case ("log",):
            return schema.LogOptions
        case ("prices", _):
            return schema.PriceOptions
        case ("prices", _, "long_context"):
            return schema.LongContextOptions
        case ("outbounds", int()):
            return outbounds.OUTBOUND_TYPES.get(str(value_at((*path, "type"), document)))
        case ("services", int()):
            return schema.ServiceOptions
        case ("services", int(), "tls"):
            return schema.TLSOptions
        case ("services", int(), "upstream"):
            return schema.UpstreamOptions
        case ("services", int(), "users", int()):
            return schema.UserOptions
        case ("services", int(), "credentials", int()):
            kind = value_at((*path, "type"), document)
            return credentials.CREDENTIAL_TYPES.get("default" if kind is None else str(kind))
    return None


def value_at(path: Path, document: Any) -> Any:
    """The value at ``path``; None where there is none."""
    for element in path:
        if isinstance(document, Mapping) and isinstance(element, str):
            document = document.get(element)
        elif isinstance(document, list) and isinstance(element, int) and element < len(document):
            document = document[element]
        else:
            return None
    return document


def _report(detail: ErrorDetails, document: Mapping[str, Any], report: Report) -> None:
    path = tuple(each for each in detail["loc"] if not str(each).startswith(BRANCH))
    if path[-1:] == ("[key]",):  # how pydantic says that the name itself is wrong, and not its value
        path = path[:-1]
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    match kind:
        case "missing":
            report.add(path, "is required")
        case "extra_forbidden":
            report.add(path, _unknown_option(path, document, report))
        case "value_error":
            report.add(path, str(context["error"]))
        case "literal_error":
            known = _choices(path, document)
            report.add(path, _unknown_value(path, value, known, report))
        case "union_tag_invalid":
            path = (*path, "type")
            value = value_at(path, document)
            known = list(credentials.CREDENTIAL_TYPES if "credentials" in path else outbounds.OUTBOUND_TYPES)
            if value is None:
                report.add(path, f"is required: {_either(known)}")
            else:
                report.add(path, _unknown_value(path, value, known, report))
        case "too_short":
            report.add(path, "must hold at least one")
        case _ if kind in _BOUNDS:
            name, words = _BOUNDS[kind]
            report.add(path, f"must be {words} {context[name]:g}, is {value:g}")
        case _ if kind in _EXPECTED:
            report.add(path, _wrong_kind(_EXPECTED[kind], value, detail["loc"], document))
        case _:
            report.add(path, "is not valid")


def _wrong_kind(expected: str, value: object, path: Sequence[str | int], document: Any) -> str:
    found = next((words for types, words in _KINDS if isinstance(value, types)), "empty")
    hint = ""
    if expected == "text" and isinstance(value, bool | int | float):
        hint = "; put it in quotes"
    elif isinstance(value, str) and expected in _UNQUOTED and _UNQUOTED[expected].fullmatch(value):
        hint = "; take the quotes away"
    return (
        f"must be {expected}"
        if found in expected or "finite" in expected
        else f"must be {expected}, is {found}{hint}"
    )


def _unknown_option(path: Path, document: Mapping[str, Any], report: Report) -> str:
    name = path[-1]
    model = options_at(path[:-1], document)
    known = list(model.model_fields) if model else []
    if isinstance(name, str) and ":" in name:
        return "unknown option; is there a space missing after a colon?"
    if name in _SING_BOX.get(path[:-1], ()):
        return f"unknown option; {ONLY_SERVICES}"
    for place, other in _PLACES:
        if name in other.model_fields and other is not model:
            return f"unknown option; it is an option of {place}"
    return f"unknown option{report.nearest(name, known)}"


def _unknown_value(path: Path, value: object, known: Sequence[str], report: Report) -> str:
    hint = report.nearest(value, known) or f"; known: {_either(known)}"
    return f"unknown {path[-1]} {report.shown(value)}{hint}"


def _choices(path: Path, document: Mapping[str, Any]) -> list[str]:
    """The allowed values of the option at ``path``, from the schema."""
    model = options_at(path[:-1], document)
    if model is None or path[-1] not in model.model_fields:
        return []
    property_schema = model.model_json_schema()["properties"][path[-1]]
    return [str(each) for each in property_schema.get("enum", [property_schema.get("const", "")])]


def _either(known: Iterable[str]) -> str:
    return ", ".join(known)
