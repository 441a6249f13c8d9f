"""The entries of `credentials`: accounts and keys, other instances, and pools of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, SecretStr, Tag

from ccmproxy.config.option_types import (
    BRANCH,
    URL,
    FilePath,
    Host,
    Name,
    OneOrMore,
    OptionMapping,
    Port,
    Variable,
    Weight,
    by_type,
)
from ccmproxy.config.units import ShortDuration


class DefaultCredential(OptionMapping):
    """A credential of type `default`: one account, read from the file that the official CLI keeps; or an API key."""

    tag: Name = Field(description="Unique name of the credential within its service.")
    type: Literal["default"] = Field(default="default", description="May be left out.")
    credential_path: FilePath | None = Field(
        default=None,
        description=(
            "The account's credential file. Left out: `$CLAUDE_CONFIG_DIR/.credentials.json`, else"
            " `~/.claude/.credentials.json` (`ccm`); `$CODEX_HOME/auth.json`, else `~/.codex/auth.json` (`ocm`)."
        ),
    )
    claude_directory: FilePath | None = Field(
        default=None,
        description="A Claude Code configuration directory: its `.credentials.json` is used (`ccm` only).",
    )
    api_key: SecretStr | None = Field(
        default=None, description="A key of the provider's commercial API, in place of a file."
    )
    api_key_file: FilePath | None = Field(default=None, description="A file with the API key.")
    api_key_env: Variable | None = Field(
        default=None, description="The environment variable with the API key."
    )
    usages_path: FilePath | None = Field(
        default=None,
        description="Database in which this credential's usage is recorded. Left out: not recorded.",
    )
    detour: str | None = Field(
        default=None, description="Tag of the outbound that every connection of this credential takes."
    )
    reserve_5h: int = Field(
        default=0,
        ge=0,
        le=99,
        description="Keep N % of the 5-hour window free: the credential pauses at 100 - N %. 0: not given.",
    )
    reserve_weekly: int = Field(default=0, ge=0, le=99, description="The same for the weekly window.")
    limit_5h: int = Field(
        default=0,
        ge=0,
        le=100,
        description=(
            "Pause when N % of the 5-hour window is used. Not together with `reserve_5h`; with neither, it pauses at"
            " 99 %. 0: not given."
        ),
    )
    limit_weekly: int = Field(default=0, ge=0, le=100, description="The same for the weekly window.")
    plan_weight: Weight | None = Field(
        default=None,
        description="Weight of an API key among other credentials, 1 if left out. An account's weight is its plan's.",
    )


class ExternalCredential(OptionMapping):
    """A credential of type `external`: another instance, which lends us its capacity.

    With `url`: we send requests there. Without: a *receiver*, reachable only through a connection that the remote
    opens to us. With `reverse`: a *connector*, we open such a connection to the remote and serve it.
    """

    tag: Name = Field(description="Unique name of the credential within its service.")
    type: Literal["external"] = Field(description="")
    url: URL | None = Field(default=None, description="Base URL of the remote, with an optional path prefix.")
    server: Host | None = Field(
        default=None, description="Dial this host instead of the URL's, which is still what Host and SNI say."
    )
    server_port: Port | None = Field(default=None, description="Dial this port instead of the URL's.")
    token: SecretStr | None = Field(
        default=None,
        description="Token that the remote gave us as one of its users; one of the three token options is required.",
    )
    token_file: FilePath | None = Field(default=None, description="A file with the token.")
    token_env: Variable | None = Field(default=None, description="The environment variable with the token.")
    reverse: bool = Field(
        default=False,
        description="Dial out to `url`, which is required then, and serve the remote over that.",
    )
    plan_weight: Weight | None = Field(
        default=None, description="Fixed weight of the remote. Left out: what the remote says, or 10."
    )
    detour: str | None = Field(
        default=None, description="Tag of the outbound that every connection of this credential takes."
    )
    usages_path: FilePath | None = Field(
        default=None,
        description="Database in which this credential's usage is recorded. Left out: not recorded.",
    )


class BalancerCredential(OptionMapping):
    """A credential of type `balancer`: a pool over default and external credentials."""

    tag: Name = Field(description="Unique name of the pool within its service.")
    type: Literal["balancer"] = Field(description="")
    credentials: OneOrMore = Field(description="Tags of the members, at least one. Pools cannot be members.")
    strategy: Literal["least-used", "round-robin", "random", "fallback"] = Field(
        default="least-used",
        description=(
            "`least-used`: the one with the most capacity left; `round-robin`; `random`; `fallback`: the first that is"
            " usable."
        ),
    )
    rebalance_threshold: float = Field(
        default=0.0,
        ge=0,
        description=(
            "With `least-used`: move sessions when another member's weekly window is less used by more than this many"
            " percent, divided by the plan weight. 0: off."
        ),
    )
    spread_subagents: bool = Field(
        default=False,
        description=(
            "Treat each subagent of a session as a session of its own, so that one conversation with many of them uses"
            " several accounts. Each then pays for its own prompt cache."
        ),
    )
    patience: ShortDuration = Field(
        default=5.0,
        description=(
            "When a member asks a session that it served within the last 5 minutes to wait, and for no longer than"
            " this, a client that is known to wait is told so, and the session stays with its prompt cache. For longer"
            " waits the session moves to another member. 0: it always moves."
        ),
    )


CredentialOptions = Annotated[
    Annotated[DefaultCredential, Tag(f"{BRANCH}default")]
    | Annotated[ExternalCredential, Tag(f"{BRANCH}external")]
    | Annotated[BalancerCredential, Tag(f"{BRANCH}balancer")],
    by_type("default"),
]

#: Type → its options.
CREDENTIAL_TYPES: Mapping[str, type[OptionMapping]] = {
    "default": DefaultCredential,
    "external": ExternalCredential,
    "balancer": BalancerCredential,
}
