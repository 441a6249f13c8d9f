"""What Codex's refusals are known to say (spec 12.1): each row with the source of its fact."""

from __future__ import annotations

from ccmproxy.dialects.known_words import KnownWords, Meaning, row

_CODE = ("error.code", "error.type", "detail.code", "code")
#: Where the sentence of an error stands; a body that is no JSON counts as the last of these.
_SENTENCE = ("detail", "error.message", "message")

#: In the order in which they are tried.
REFUSAL_WORDS: tuple[KnownWords, ...] = (
    row((403,), _SENTENCE, "OAuth token has been revoked", Meaning.LOGIN_REVOKED, "spec 3.4"),
    row(
        (400, 401, 402, 403),
        _CODE,
        "deactivated_workspace",
        Meaning.ACCOUNT_REFUSED,
        "spec 12.3; codex2api#42 (402), codex#19075 (402)",
    ),
    row(
        (400, 401, 402, 403),
        _CODE,
        "invalid_workspace_selected",
        Meaning.ACCOUNT_REFUSED,
        "spec 12.3; codex#24495 (403)",
    ),
    row(
        (400, 403),
        _SENTENCE,
        "The * model is not supported when using Codex with a ChatGPT account",
        Meaning.MODEL_REFUSED,
        "spec 12.3; opencodex#335, codex#6603, codex#17642 (F53)",
    ),
    row(
        (429,),
        _CODE,
        "usage_not_included",
        Meaning.REQUEST,
        "spec 12.2; docs/clients/codex.md sections 6 and 11: final for the client, which names the plan to buy",
    ),
    row(
        (429,),
        _CODE,
        "insufficient_quota",
        Meaning.FINAL,
        "docs/clients/codex.md section 6: final for the client",
    ),
)
