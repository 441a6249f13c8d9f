"""The reference of all options as Markdown, generated from the schema for docs/configuration.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ccmproxy.config import credential_options as credentials
from ccmproxy.config import outbound_options as outbounds
from ccmproxy.config import schema
from ccmproxy.config.not_supported import NOT_SUPPORTED
from ccmproxy.config.units import DURATION, KIB, MIB, SIZE

BEGIN = "<!-- options: made by `ccmproxy schema --markdown` -->"
END = "<!-- end of options -->"

#: Heading; path of the mapping, as :mod:`ccmproxy.config.not_supported` writes it; model of its options.
SECTIONS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("The file", "", schema.FileOptions),
    ("`log`", "log", schema.LogOptions),
    ("`services[]`", "services[]", schema.ServiceOptions),
    ("`services[].upstream`", "services[].upstream", schema.UpstreamOptions),
    ("`services[].tls`", "services[].tls", schema.TLSOptions),
    ("`services[].users[]`", "services[].users[]", schema.UserOptions),
    ("`services[].credentials[]`, type `default`", "services[].credentials[]", credentials.DefaultCredential),
    (
        "`services[].credentials[]`, type `external`",
        "services[].credentials[]",
        credentials.ExternalCredential,
    ),
    (
        "`services[].credentials[]`, type `balancer`",
        "services[].credentials[]",
        credentials.BalancerCredential,
    ),
    ("`outbounds[]`, type `direct`", "outbounds[]", outbounds.DirectOutboundOptions),
    ("`outbounds[]`, type `socks`", "outbounds[]", outbounds.SocksOutboundOptions),
    ("`outbounds[]`, type `http`", "outbounds[]", outbounds.HTTPOutboundOptions),
    ("`prices.MODEL`", "prices.MODEL", schema.PriceOptions),
    ("`prices.MODEL.long_context`", "prices.MODEL.long_context", schema.LongContextOptions),
)


def markdown() -> str:
    """The reference: a heading, a sentence and a table for every mapping of the file."""
    return "\n".join(line for heading, path, model in SECTIONS for line in _section(heading, path, model))


def option_names() -> frozenset[str]:
    """The names of all options, at any place in the file."""
    return frozenset(name for _, _, model in SECTIONS for name in model.model_fields)


def _section(heading: str, path: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"### {heading}"
    yield ""
    yield from (line.strip() for line in (model.__doc__ or "").strip().splitlines())
    yield ""
    yield "| option | value | default | meaning |"
    yield "|---|---|---|---|"
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        option = properties[name]
        cells = [f"`{name}`", _kind(option), _default(field, option), _meaning(path, name, option)]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def _kind(option: dict[str, Any]) -> str:
    """The type of an option, from its JSON schema."""
    if "const" in option:
        return f"`{option['const']}`"
    if "enum" in option:
        return ", ".join(f"`{each}`" for each in option["enum"])
    if option.get("title") in (DURATION, SIZE):
        return str(option["title"])
    if "anyOf" in option:
        kinds = dict.fromkeys(_kind(each) for each in option["anyOf"] if each.get("type") != "null")
        return " or ".join(kinds)
    kind = option.get("type")
    if kind in ("integer", "number"):
        bounds = [str(option[name]) for name in ("minimum", "maximum") if name in option]
        return f"number {' to '.join(bounds)}" if len(bounds) == 2 else "number"
    return {"string": "text", "boolean": "`true`, `false`", "array": "list"}.get(str(kind), "mapping")


def _default(field: FieldInfo, option: dict[str, Any]) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value in ([], {}) or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if option.get("title") == SIZE:
        return f"`{value // MIB}MiB`" if value % MIB == 0 else f"`{value // KIB}KiB`"
    if option.get("title") == DURATION:
        return f"`{value:g}s`" if value else "`0`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _meaning(path: str, name: str, option: dict[str, Any]) -> str:
    text = str(option.get("description", ""))
    full = f"{path}.{name}" if path else name
    missing = [each.value for each in NOT_SUPPORTED if each.path == full]
    if None in missing:
        return f"{text} *Not supported yet.*"
    possible = option.get("enum", [option.get("const")])
    values = ", ".join(f"`{value}`" for value in missing if value in possible)
    return f"{text} *{values}: not supported yet.*".strip() if values else text
