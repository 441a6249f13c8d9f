"""What a request will cost before it is answered: the estimate that is reserved for it (spec 9.6). Pure."""

from __future__ import annotations

from typing import NamedTuple

from ccmproxy.state.usage_record import LONG_WINDOW

#: Bytes of a request's body for one token. Prose and code have some 4, JSON around them and other scripts fewer.
BYTES_PER_TOKEN = 4
#: Tokens of an answer of a session that has none yet. A guess: most answers are tool calls of a few hundred.
USUAL_OUTPUT = 1000


class EstimatedTokens(NamedTuple):
    """``input``: that will be read, from a cache or not. ``output``: that will be written. They differ in price."""

    input: int
    output: int

    @property
    def total(self) -> int:
        """Both together, which is what a budget in tokens counts."""
        return self.input + self.output


def estimate(size: int, session_mean: float | None, max_tokens: int | None) -> EstimatedTokens:
    """Return the tokens that are reserved for a request.

    Input: a token for each 4 bytes of the body, at most the longest context window, because what is larger has pictures
    in it, or is refused. Output: the mean of the session, or 1,000; at most ``max_tokens``. ``max_tokens`` is no
    estimate by itself: clients ask for 32,000 and take 300, and reservations of that size would make others wait.

    ``size``: of the body after content coding (bytes). ``session_mean``: of the tokens that the session's answers
    *wrote* (output). ``max_tokens``: what the request allows. None: not known. What is below 0 counts as 0.
    """
    read = min(-(-max(0, size) // BYTES_PER_TOKEN), LONG_WINDOW)
    written = USUAL_OUTPUT if session_mean is None else round(min(max(0.0, session_mean), LONG_WINDOW))
    if max_tokens is not None:
        written = min(written, max(0, max_tokens))
    return EstimatedTokens(read, written)
