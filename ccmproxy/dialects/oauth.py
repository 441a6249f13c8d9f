"""OAuth logins as values: the content of an account's file, and how a refresh can be refused. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OAuthToken:
    """The login of one account. Secrets are left out of the repr.

    ``expires_at``: Unix seconds, None = unknown or never. ``scopes`` in the file's order. ``plan`` and ``tier`` are the
    provider's words (Claude: ``max`` / ``default_claude_max_20x``; Codex: the plan type), None where unknown.
    ``account_id``: of the organization or workspace that the login belongs to, None where unknown. ``last_refresh``:
    Unix seconds, None where the file does not record it.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None
    scopes: tuple[str, ...] = ()
    plan: str | None = None
    tier: str | None = None
    account_id: str | None = None
    id_token: str | None = field(default=None, repr=False)
    last_refresh: float | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of the provider's commercial API, used in place of a login (spec 3.7)."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RemoteToken:
    """The token that another instance of ccmproxy issued to us as one of its users (spec 7.1)."""

    token: str = field(repr=False)


#: What an account authorizes its requests with.
Login = OAuthToken | ApiKey
#: What any credential authorizes its requests with.
Authorization = Login | RemoteToken


class CredentialFileError(Exception):
    """A store of a login cannot be used, or does not hold what it should.

    ``str()`` is a sentence for the operator's log. It names the problem and the place, never the content. ``public``:
    the same sentence for clients, without paths of the operator. ``is_passing``: the cause is in this machine and may
    pass without a change of the store, as exhausted open files or a locked keychain do. It says nothing about the login
    in the store (spec 12.4).
    """

    def __init__(self, message: str, *, public: str | None = None, is_passing: bool = False) -> None:
        super().__init__(message)
        self.public = message if public is None else public
        self.is_passing = is_passing


class RefreshRefused(Exception):
    """The token endpoint did not issue a new token.

    ``permanent``: never try again with this refresh token. ``retry_after``: seconds after which another attempt makes
    sense, None where nothing was said. ``rate_limited``: the endpoint answered 429 (spec 3.2 point 8). ``code``: the
    error code of the answer (RFC 6749 section 5.2), empty where it named none.
    """

    def __init__(
        self,
        message: str,
        *,
        permanent: bool = False,
        rate_limited: bool = False,
        retry_after: float | None = None,
        code: str = "",
    ) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.rate_limited = rate_limited
        self.retry_after = retry_after
        self.code = code


class AnswerMalformed(Exception):
    """A usage or profile endpoint sent a response that cannot be parsed. The message never quotes the response."""


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """A request that ccmproxy makes on its own behalf: refresh, usage, profile.

    ``headers`` may hold the bearer token: never log them.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class UpstreamURLs:
    """The URLs of a service's upstream (spec 2; ``upstream:`` replaces them). ``user_agent``: of our own requests.

    ``key_api_url``: base URL of requests that are authorized with a key of the commercial API; empty = ``api_url``.
    """

    api_url: str
    token_url: str
    usage_url: str
    profile_url: str
    user_agent: str
    key_api_url: str = ""
