"""A turn of the model, over any transport: its cost, its output, and the reasons to refuse it. No I/O.

Both the HTTP endpoints and the WebSocket sessions use it.
"""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ccmproxy.dialects.usage import Tokens
from ccmproxy.http.message import Headers
from ccmproxy.simulator.codex.authorization import Authenticated
from ccmproxy.simulator.codex.chat import Completion, build_completion
from ccmproxy.simulator.codex.error_answers import ErrorAnswers, object_id
from ccmproxy.simulator.codex.items import build_items, compaction, foreign_item
from ccmproxy.simulator.codex.limit_views import key_headers, limit_headers, limits_event
from ccmproxy.simulator.codex.models import is_served
from ccmproxy.simulator.codex.responses import PromptCache, Response, read_tools, wants_compaction
from ccmproxy.simulator.codex.simulated_account import CodexAccount, model_weight
from ccmproxy.simulator.conversation import Prompt, compose, estimate_tokens
from ccmproxy.simulator.due_faults import DueFaults
from ccmproxy.simulator.faults import Fault, FaultPlan
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import RequestRefused
from ccmproxy.simulator.steps import Reply
from ccmproxy.simulator.usage_windows import cost

TURN_STATE = b"x-codex-turn-state"


class Turns:
    """Performs turns for accounts and keys. ``due``: the faults that requests meet."""

    def __init__(
        self, faults: FaultPlan, rng: random.Random, time: Callable[[], float], errors: ErrorAnswers
    ) -> None:
        self.errors = errors
        self.rng = rng
        self.time = time
        self.due = DueFaults[Authenticated](faults, self.invalid, self.replacement)
        self._cache = PromptCache()

    # What goes wrong ------------------------------------------------------------------------------------------

    def replacement(
        self, request: ReceivedRequest, account: Authenticated | None, fault: Fault, model: str
    ) -> Reply:
        """The response that ``fault`` puts in place of the real one."""
        if fault.name != "exhausted":
            return self.errors.answer(fault, request.target)
        if isinstance(account, CodexAccount):
            window = fault.window if fault.window in account.windows else "five_hour"
            return self._usage_limit(account, model, window, fault.retry_after)
        message = "You exceeded your current quota, please check your plan and billing details."
        return self.errors.error(429, "insufficient_quota", "insufficient_quota", message)

    def invalid(self, account: Authenticated | None, message: str) -> Reply:
        """A 400 in the format for this kind of account."""
        if isinstance(account, CodexAccount):
            return self.errors.detail(400, message)
        return self.errors.error(400, "invalid_request_error", None, message)

    # Turns ----------------------------------------------------------------------------------------------------

    def respond(
        self,
        account: Authenticated,
        document: Mapping[str, Any],
        prompt: Prompt,
        key: str,
        size: int,
    ) -> Response:
        """The response to a request of the Responses API, charged to the account.

        ``size``: bytes of the prompt, earlier turns included. Raises RequestRefused.
        """
        self.admit(account, document)
        tokens = self._input_tokens(account, document, key, size)
        limit = document.get("max_output_tokens")
        if wants_compaction(document):
            items, used, reasoning, is_cut = [compaction(_owner(account), self.rng)], 1, 0, False
        else:
            blocks = compose(prompt, self.rng)
            items, used, reasoning, is_cut = build_items(
                blocks, read_tools(document), _owner(account), limit, self.rng
            )
        tokens = replace(tokens, output=used, reasoning=reasoning)
        self._consume(account, str(document["model"]), tokens)
        return self._response(document, items, tokens, is_cut)

    def warm_up(self, account: Authenticated, document: Mapping[str, Any], size: int) -> Response:
        """The response to a request that generates nothing, free of charge. Raises RequestRefused."""
        self.admit(account, document, free=True)
        return self._response(document, [], Tokens(input=estimate_tokens(size)), False)

    def complete(
        self, account: Authenticated, document: Mapping[str, Any], prompt: Prompt, key: str, size: int
    ) -> Completion:
        """The response to a request for a chat completion. Raises RequestRefused."""
        self.admit(account, document)
        tokens = self._input_tokens(account, document, key, size)
        return build_completion(document, compose(prompt, self.rng), tokens, self.time(), self.rng)

    def admit(self, account: Authenticated, document: Mapping[str, Any], *, free: bool = False) -> None:
        """Refuse unknown models, thoughts of another account, and used-up accounts.

        ``free``: the turn costs nothing, so the allowance is not checked. Raises RequestRefused.
        """
        model = str(document["model"])
        if not is_served(model):
            raise RequestRefused(self._no_model(account, model))
        if (item := foreign_item(document, _owner(account))) is not None:
            message = (
                f"The encrypted content for item {item} could not be verified."
                " Reason: Encrypted content organization_id did not match the target organization."
            )
            raise RequestRefused(
                self.errors.error(400, "invalid_request_error", "invalid_encrypted_content", message)
            )
        if not free and (refusal := self._used_up(account, model)) is not None:
            raise RequestRefused(refusal)

    # What is told of an account -------------------------------------------------------------------------------

    def limit_headers(self, account: Authenticated, model: str = "") -> Headers:
        """The rate-limit headers of a response."""
        if isinstance(account, CodexAccount):
            return limit_headers(account, model, self.time())
        return key_headers(account, self.time())

    def limits_event(self, account: Authenticated, model: str) -> list[dict[str, Any]]:
        """The event about limits, for accounts that have limits."""
        return [limits_event(account, model, self.time())] if isinstance(account, CodexAccount) else []

    def turn_state(self, account: Authenticated, brought: str | None) -> str | None:
        """The ``x-codex-turn-state`` of a turn: the one it ``brought``, or a new one; None for keys.

        A value that another account issued is replaced and counted.
        """
        if not isinstance(account, CodexAccount):
            return None
        own = "ts-" + hashlib.sha256(account.uuid.encode()).hexdigest()[:16] + "-"
        if brought is not None:
            if hmac.compare_digest(brought[: len(own)].encode(), own.encode()):
                return brought
            account.foreign_turn_states += 1
        return own + self.rng.randbytes(8).hex()

    # Inside ---------------------------------------------------------------------------------------------------

    def _response(
        self, document: Mapping[str, Any], items: list[dict[str, Any]], tokens: Tokens, is_cut: bool
    ) -> Response:
        identity = object_id("resp", self.rng)
        return Response(identity, int(self.time()), document, items, tokens, is_cut)

    def _input_tokens(
        self, account: Authenticated, document: Mapping[str, Any], key: str, size: int
    ) -> Tokens:
        if not key:
            return Tokens(input=estimate_tokens(size))
        return self._cache.tokens((_owner(account), key, str(document["model"])), size, self.time())

    def _consume(self, account: Authenticated, model: str, tokens: Tokens) -> None:
        if not isinstance(account, CodexAccount):
            return
        names = account.windows_of(account.limit_for(model))
        if account.full_until(names) is not None:
            account.pay(cost(tokens, model_weight(model)))
        else:
            account.consume(tokens, model_weight(model), list(names))

    def _used_up(self, account: Authenticated, model: str) -> Reply | None:
        """The 429 for an account without any allowance left, else None."""
        if isinstance(account, CodexAccount):
            names = account.windows_of(account.limit_for(model))
            if account.full_until(names) is None or account.credits.usable:
                return None
            return self._usage_limit(account, model)
        if account.take_request():
            return None
        wait = max(1, round(account.allowance()[1] - self.time()))
        message = f"Rate limit reached for {model} on requests per min. Please try again in {wait}s."
        headers = [(b"retry-after", b"%d" % wait), *key_headers(account, self.time())]
        return self.errors.error(429, "requests", "rate_limit_exceeded", message, headers)

    def _usage_limit(
        self, account: CodexAccount, model: str, window: str | None = None, retry_after: int | None = None
    ) -> Reply:
        now = self.time()
        names = account.windows_of(account.limit_for(model))
        resets_at = account.full_until(names)
        if window is not None:
            account.windows[window].begin(now)
            resets_at = account.windows[window].resets_at
        headers = limit_headers(account, model, now, window)
        if retry_after is not None:
            headers.append((b"retry-after", b"%d" % retry_after))
        headers.append((b"x-codex-rate-limit-reached-type", b"rate_limit_reached"))
        return self.errors.usage_limit(account.plan, resets_at or now, now, headers)

    def _no_model(self, account: Authenticated, model: str) -> Reply:
        if isinstance(account, CodexAccount):
            message = f"The '{model}' model is not supported when using Codex with a ChatGPT account."
            return self.errors.detail(400, message)
        message = f"The model `{model}` does not exist or you do not have access to it."
        return self.errors.error(404, "invalid_request_error", "model_not_found", message)


def _owner(account: Authenticated) -> str:
    """The owner of encrypted content and of the prompt cache."""
    return account.account_id if isinstance(account, CodexAccount) else account.organization_uuid
