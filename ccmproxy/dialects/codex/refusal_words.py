"""What Codex's refusals are known to say (spec 12.1): each row with the source of its fact."""

from __future__ import annotations

from ccmproxy.dialects.known_words import KnownWords, Meaning, rows

_CODE = ("error.code", "error.type", "detail.code", "code")
_SENTENCE = ("detail", "error.message", "message")

#: In the order in which they are tried.
REFUSAL_WORDS: tuple[KnownWords, ...] = (
    rows((400, 401, 402, 403), _CODE, "deactivated_workspace", Meaning.ACCOUNT_REFUSED, "spec 12.3"),
    rows((400, 401, 402, 403), _CODE, "invalid_workspace_selected", Meaning.ACCOUNT_REFUSED, "spec 12.3"),
    rows(
        (400, 403, 404),
        _SENTENCE,
        "The * model is not supported when using Codex with a ChatGPT account",
        Meaning.MODEL_REFUSED,
        "opencodex#335, docs/clients/codex.md",
    ),
    rows(
        (429,),
        _CODE,
        "usage_not_included",
        Meaning.REQUEST,
        "docs/clients/codex.md, observed: fatal for the client, names the plan",
    ),
    rows((429,), _CODE, "insufficient_quota", Meaning.REQUEST, "docs/clients/codex.md"),
)

#: What the token endpoint says of a refresh token that no refresh will ever accept again (spec 3.3, 12.4).
DEAD_LOGIN_CODES = frozenset(
    {
        "refresh_token_expired",
        "refresh_token_reused",
        "refresh_token_invalidated",
        "invalid_grant",
        "app_session_expired",
        "app_session_terminated",
        "invalid_refresh_token",
    }
)
