"""A simulation of a team's work on a pool of accounts over weeks, to compare ways of choosing the account.

``python -m bench.pool`` runs it. The code that chooses is real: :class:`ccmproxy.credentials.pool.pool.Pool`, over
credentials whose state the real :func:`ccmproxy.state.transitions.transition` changes. Accounts and people are
modelled, and time is a number: no reactor, no sockets. All randomness comes from a seed, and with the same seed all
policies meet the same demand and the same accounts.

Accounts (:mod:`bench.pool.accounts`)
    * A 5-hour window begins with the first request after the previous one ended; a weekly window ends at an hour of the
      week that is fixed for each account, used or not. Both fill with every response, and are full at their allowance.
    * Allowances are those of :mod:`ccmproxy.simulator`, relative to a Pro plan, except for the week of the 20x plan:
      10, which is the proxy's assumption (``--large-week``). The providers publish none.
    * Headers report both windows in whole percent, rounded up, as they were before the request; polls, an hour after
      the last news, report the same. A request on a full window gets a 429 with the reset, and costs nothing.
    * Costs of a token relative to an uncached input token: output 5, cache read 0.1, cache write 1.25 (5 minutes) or 2
      (1 hour); times 5 for the large model, 3 for the middle one, 1 for the small one.

Work (:mod:`bench.pool.demand`)
    * There are four kinds of people, heavy, regular, light and night owls, with working hours, lunch, free days and
      weekends, and weeks of more and of less work. They start sessions, sometimes several at a time.
    * A session is a sequence of turns with time to think in between (lognormal); a turn is a sequence of requests, each
      of them sent as soon as the tools have run. Contexts grow with responses and tool results (lognormal) and are
      compacted when they are long. Some turns start subagents, which work in parallel and whose results the turn waits
      for. Some sessions are resumed the next day.
    * The cache of a conversation lives on the account that served it, for an hour after its last use (5 minutes for
      subagents). A conversation that moves pays for its whole context again. Conversations share no cache.
    * The load is the cost of all this work on one account without a refusal, in percent of all weekly allowances.
      With the same seed, the work of a lower load is part of that of a higher one.

Refusals (:mod:`bench.pool.simulation`)
    * A request is refused if the policy has no account for it. It is repeated at the named reset, or after a quarter
      of an hour if that is sooner, and the conversation is given up an hour after the person's day has ended.
      A request counts as refused once, however often it is repeated.
    * The head of a response comes at once, its cost with its end: no request waits for a first byte, so the interrupts
      of spec 5.3 and 6.5 have no effect.

Measuring begins after one week, so that each account has ended exactly as many weeks as are measured.
"""
