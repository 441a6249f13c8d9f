"""What an upstream's answers mean, as far as it is the same in all dialects (spec 4.4, 4.6, 12.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ccmproxy.dialects.json_values import json_object
from ccmproxy.dialects.known_words import Found, KnownWords, Meaning, find_words, sentence_of, shortened
from ccmproxy.http.content_coding import decompressed
from ccmproxy.http.message import Headers, first_value, lower_names
from ccmproxy.policy.answers import DEFAULT_BLOCK, SERVED, AnswerKind, Verdict
from ccmproxy.state.model_names import is_of_family, name_words

#: A refusal's body is not looked into beyond this (bytes, decompressed).
LARGEST_REFUSAL = 256 * 1024
#: A body that is no JSON counts as a sentence up to this length (bytes).
_LONGEST_TEXT = 2000
#: Statuses below 429 whose body says what they are about.
_TELLING = frozenset({400, 401, 402, 403})
#: What a 400 speaks of when it is about the account and not about the request alone (spec 12.1).
_ABOUT_ACCOUNT = re.compile(
    r"(?<![a-z])(organi[sz]ations?|workspaces?|accounts?|subscriptions?|plans?|not supported when using)(?![a-z])"
)
#: What a 400 says when it is about the size of the request, whatever else it speaks of: nobody is asked twice then.
_TOO_LARGE = re.compile(
    r"prompt is too long|input is too long|context[ _](?:length|window|limit)|maximum context|too many tokens"
    r"|request[ _]too[ _]large"
)
#: How many characters of a 400's sentence are searched.
_LONGEST_SEARCHED = 2000
_FIELD_NAME = re.compile(r"^[^:\n]*: ", re.MULTILINE)


def read_refusal(headers: Headers, body: bytes) -> dict[str, object]:
    """Return what a refusal says, as a JSON object: its body, without its content coding (F59).

    A body that is a short text becomes ``{"message": text}``, as clients show it; anything else the empty object. A
    body that cannot be decoded as its Content-Encoding says is read as it is. Never raises.
    """
    plain = decompressed(body, first_value(headers, b"content-encoding"), LARGEST_REFUSAL)
    if plain is None:
        plain = body[:LARGEST_REFUSAL]
    document = json_object(plain)
    if document is not None:
        return document
    text = plain.strip()
    if not text or len(text) > _LONGEST_TEXT or text[:1] in b"<[{":
        return {}
    return {"message": text.decode("utf-8", "replace")}


def verdict_by_status(
    status: int, document: object, table: Sequence[KnownWords] = (), echo: str = ""
) -> Verdict:
    """Return what an answer with a status other than 429 means (spec 12.1, 12.3).

    ``document``: its body as :func:`read_refusal` returns it; None: not read yet, and the verdict asks for it where the
    status alone does not tell. ``table``: the dialect's known words; ``echo``: see
    :func:`ccmproxy.dialects.known_words.echo_of`.
    """
    if status < 400:
        return SERVED
    if status not in _TELLING:
        return Verdict(AnswerKind.OTHER)
    if document is None:
        return Verdict(AnswerKind.NEEDS_BODY)
    found = find_words(table, status, document, echo)
    sentence = shortened(sentence_of(document))
    match found.meaning if found is not None else None:
        case Meaning.ACCOUNT_REFUSED:
            return Verdict(AnswerKind.ACCOUNT_REFUSED, sentence=sentence)
        case Meaning.MODEL_REFUSED:
            return Verdict(AnswerKind.MODEL_REFUSED, sentence=sentence)
        case Meaning.LOGIN_REVOKED:
            return Verdict(AnswerKind.AUTH_FAILED, sentence=sentence, is_revoked=True)
    if status == 401:
        return Verdict(AnswerKind.AUTH_FAILED, sentence=sentence)
    is_about_request = found is not None and found.meaning is Meaning.REQUEST
    if status == 400 and not (is_about_request or speaks_of_account(document, echo)):
        return Verdict(AnswerKind.CLIENT_ERROR)
    is_final = found is not None and found.meaning in (Meaning.REQUEST, Meaning.FINAL)
    return Verdict(AnswerKind.DENIED, is_about_request=is_about_request, is_final=is_final, sentence=sentence)


def speaks_of_account(document: object, echo: str = "") -> bool:
    """Return whether the words of a 400 speak of an account, and not of the size of the request (spec 12.1).

    A word that stands in the target, the model or the value of a header field of the request does not count.
    """
    said = sentence_of(document)[:_LONGEST_SEARCHED].lower()
    error = document.get("error") if isinstance(document, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str):
        said += "\n" + code[:_LONGEST_SEARCHED].lower()
    if _TOO_LARGE.search(said):
        return False
    words = set(_ABOUT_ACCOUNT.findall(said))
    if not words or not echo:
        return bool(words)
    values = _FIELD_NAME.sub("", echo)
    return any(re.search(rf"(?<![a-z]){word}(?![a-z])", values) is None for word in words)


def busy(
    wait: float | None = None,
    document: object = None,
    table: Sequence[KnownWords] = (),
    echo: str = "",
    is_final: bool = False,
) -> Verdict:
    """Return the verdict on a 429 that no window explains (spec 12.2, F5).

    ``wait``: seconds of its Retry-After, as it came, None = not said. The other parameters: as for
    :func:`verdict_by_status`; ``is_final``: whether it says by other means that waiting does not help.
    """
    found: Found | None = find_words(table, 429, document, echo)
    meaning = found.meaning if found is not None else None
    return Verdict(
        AnswerKind.BUSY,
        wait=wait,
        is_about_request=meaning is Meaning.REQUEST,
        is_final=is_final or meaning in (Meaning.REQUEST, Meaning.FINAL),
        sentence=shortened(sentence_of(document)),
    )


def in_stream(refusal: Verdict | None) -> Verdict | None:
    """Return what a refusal that comes after output has begun is taken for.

    Nothing is concluded there about an account or a model as a whole: what the client sent, and a provider might
    repeat, is not at hand, and the request cannot be put to another account (spec 12.1).
    """
    if refusal is not None and refusal.kind in (AnswerKind.ACCOUNT_REFUSED, AnswerKind.MODEL_REFUSED):
        return replace(refusal, kind=AnswerKind.DENIED)
    return refusal


def used_up(kind: AnswerKind, until: float, wait: float | None, now: float, model: str = "") -> Verdict:
    """Return the verdict on a 429 with data (spec 4.6).

    ``until``: Unix seconds, not in the future = not said; then ``wait`` counts, and then a default of ours (F46).
    """
    if until > now:
        return Verdict(kind, until, model=model)
    if wait is not None and wait > 0:
        return Verdict(kind, now + wait, model=model)
    return Verdict(kind, now + DEFAULT_BLOCK, explicit=False, model=model)


def refused_model(model: str | None, family: str) -> str:
    """Return the model that a used-up window named ``family`` closes, if that is not to be seen from its name.

    A window that refuses a model of another name, such as the one for paid overage, closes the model that was asked
    for: a family that no model belongs to would close nothing. Empty where the name says it, or no model was named.
    """
    if model is None or is_of_family(name_words(model), family):
        return ""
    return model


def used_up_resets(headers: Headers, field: re.Pattern[bytes]) -> list[str]:
    """Return the resets of those limits of an API key of which nothing is left, in the upstream's own form.

    ``field`` matches whole names in lower case, with the groups ``limit`` (its name) and ``fact`` (``reset`` or
    ``remaining``).
    """
    said = _key_limits(headers, field)
    return [
        value
        for (limit, fact), value in said.items()
        if fact == b"reset" and said.get((limit, b"remaining")) == "0"
    ]


def is_key_used_up(headers: Headers, field: re.Pattern[bytes]) -> bool:
    """Return whether nothing is left of some limit of an API key, whether its reset is named or not."""
    return any(
        fact == b"remaining" and value == "0" for (_, fact), value in _key_limits(headers, field).items()
    )


def _key_limits(headers: Headers, field: re.Pattern[bytes]) -> dict[tuple[bytes, bytes], str]:
    return {
        (match["limit"], match["fact"]): pair[1].decode("latin-1").strip()
        for pair, name in zip(headers, lower_names(headers), strict=True)
        if (match := field.fullmatch(name))
    }
