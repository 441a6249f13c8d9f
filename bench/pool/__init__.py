"""A simulation of weeks of a team's work on a pool of accounts, to compare ways of choosing the account.

``python -m bench.pool`` runs it. What chooses is the real thing: :class:`ccmproxy.credentials.pool.pool.Pool`, over
credentials whose state the real :func:`ccmproxy.state.transitions.transition` moves. Accounts and people are modelled,
time is a number: no reactor, no sockets. Everything random comes from a seed, and all policies of one seed meet the
same demand and the same accounts.

Accounts (:mod:`bench.pool.accounts`)
    * A 5-hour window begins with the first request after the last one ended; a weekly window ends at an hour of the
      week of its own, used or not. Both fill with every answer, and are full at their allowance.
    * Allowances are those of :mod:`ccmproxy.simulator`, relative to a Pro plan, but for the week of the 20x plan: 10,
      which is what the proxy takes it for (``--large-week``). The providers publish none.
    * Headers tell both windows in whole percent, rounded up, as they were before the request; polls, an hour after
      the last news, say the same. A request on a full window gets a 429 with the reset, and costs nothing.
    * A token costs what it costs relative to an uncached input token: output 5, cache read 0.1, cache write 1.25
      (5 minutes) or 2 (1 hour); times 5 for the large model, 3 for the middle one, 1 for the small one.

Work (:mod:`bench.pool.demand`)
    * People of four kinds, heavy, regular, light and night owls, with hours, lunch, free days and weekends, and weeks
      of more and of less work. They start sessions, several at a time if it comes so.
    * A session is a row of turns with time to think in between (lognormal); a turn is a row of requests, each as soon
      as the tools have run. Contexts grow with answers and tool results (lognormal) and are compacted when they are
      long. Some turns start subagents, which work side by side and whose results the turn waits for. Some
      sessions are taken up again the next day.
    * What was cached for a conversation lives on the account that served it, for an hour after its last use (5 minutes
      for subagents). Whoever moves pays the whole context anew. Conversations share no cache.
    * The load is what all that would cost on one account without a refusal, in percent of all weekly allowances.
      Of one seed, the work of a lower load is part of that of a higher one.

Refusals (:mod:`bench.pool.simulation`)
    * A request is refused if the policy has no account for it. Whoever is refused asks again at the named reset, or
      after a quarter of an hour if that is sooner, and gives the conversation up an hour after their day has ended.
      A request counts as refused once, however often it is repeated.
    * An answer's head comes at once, its cost with its end: nothing waits without a first byte, so the interrupts of
      spec 5.3 and 6.5 find nobody.

Measuring begins after one week, so that each account has ended exactly as many weeks as are measured.
"""
