"""The types of options: names, paths, addresses, and the mapping that holds the options. Nothing is converted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    WithJsonSchema,
    model_validator,
)

from ccmproxy.config import addresses

#: Prefix of the name of a union's branch in pydantic's locations; no option begins like this.
BRANCH = "\0"

#: Longest glob (characters), and most of them in a list.
LONGEST_GLOB = 100
MOST_GLOBS = 100

_ENVIRONMENT_NAME = re.compile(r"[^=\0]+")


def _name(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if value != value.strip() or not value.isprintable() or len(value) > 100:
        raise ValueError("must be at most 100 printable characters, without spaces at its ends")
    return value


def _glob(value: str) -> str:
    if not value.strip() or not value.isprintable() or len(value) > LONGEST_GLOB:
        raise ValueError(f"must be 1 to {LONGEST_GLOB} printable characters")
    return value


def _globs(values: list[str]) -> list[str]:
    # An empty list would be taken for "none" by whoever writes it, and for "left out" by the other options.
    if not 0 < len(values) <= MOST_GLOBS:
        raise ValueError(f"must hold 1 to {MOST_GLOBS} globs; leave it out for no restriction")
    return values


def _path(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a null character")
    if value.startswith("~") and value != "~" and not value.startswith("~/"):
        raise ValueError("must not begin with ~ and a user's name: write the directory out")
    return value


def _variable(value: str) -> str:
    if not _ENVIRONMENT_NAME.fullmatch(value):
        raise ValueError("must be the name of an environment variable")
    return value


def _url(value: str) -> str:
    addresses.parse_url(value)
    return value


def _listen(value: str) -> str:
    return addresses.parse_listen(value)


def _endpoint(value: str) -> str:
    if value:
        addresses.parse_endpoint(value)
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError('must be an IP address or a network, for example "10.0.0.0/8"') from None
    return value


def _host(value: str) -> str:
    if not addresses.is_host(value):
        raise ValueError("must be a host name or an IP address")
    return value


def _user_agent(value: str) -> str:
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
        raise ValueError("must be printable ASCII characters")
    return value


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(_name)]
FilePath = Annotated[str, AfterValidator(_path)]
Variable = Annotated[str, AfterValidator(_variable)]
URL = Annotated[str, AfterValidator(_url)]
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
OneOrMore = Annotated[
    list[str],
    BeforeValidator(_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Glob = Annotated[str, AfterValidator(_glob)]
OneOrMoreGlobs = Annotated[
    list[Glob],
    BeforeValidator(_list),
    AfterValidator(_globs),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": LONGEST_GLOB},
                {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": LONGEST_GLOB},
                    "minItems": 1,
                    "maxItems": MOST_GLOBS,
                },
            ]
        }
    ),
]
Weight = Annotated[float, Field(gt=0, le=1_000_000)]
ListenIP = Annotated[str, AfterValidator(_listen)]
ServerEndpoint = Annotated[str, AfterValidator(_endpoint)]
Network = Annotated[str, AfterValidator(_network)]
UserAgent = Annotated[str, AfterValidator(_user_agent)]


class OptionMapping(BaseModel):
    """A mapping of the file. Unknown options are errors, no value is converted, secrets stay hidden."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            name: each for name, each in value.items() if each is not None or name not in cls.model_fields
        }


def by_type(default: str | None = None) -> Discriminator:
    """Selects the model of an entry of a list by its ``type``, which is optional where there is a ``default``."""
    return Discriminator(_branch_by_type(default))


def _branch_by_type(default: str | None) -> Callable[[Any], str | None]:
    def branch(value: Any) -> str | None:
        if not isinstance(value, Mapping):
            return None
        kind = value.get("type")
        return f"{BRANCH}{default if kind is None else kind}"

    return branch
