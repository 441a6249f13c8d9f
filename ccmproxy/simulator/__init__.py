"""Realistic upstreams for tests, the demo and benchmarks: one port, many accounts, and every kind of fault.

:class:`Simulator` responds like the real services, as far as their behaviour is known from outside: logins whose
refresh tokens rotate, windows that fill with tokens and empty with time, model output that a prompt can direct
(:mod:`ccmproxy.simulator.conversation`), and faults (:mod:`ccmproxy.simulator.faults`).

Decisions are pure: an upstream (:mod:`ccmproxy.simulator.claude`, :mod:`ccmproxy.simulator.codex`) turns a request into
a reply, :mod:`ccmproxy.simulator.steps` turns the reply and a fault into steps, and :mod:`ccmproxy.simulator.player`
performs the steps.

``python -m ccmproxy.simulator`` runs the simulator on its own port.
"""

from __future__ import annotations

from ccmproxy.simulator.claude.simulated_account import ApiKeyAccount, ClaudeAccount
from ccmproxy.simulator.claude.upstream import upstream_settings
from ccmproxy.simulator.codex.simulated_account import (
    CodexAccount,
    OpenAIKey,
    SimulatedCredits,
    SimulatedLimit,
)
from ccmproxy.simulator.faults import FAULTS, SCENARIOS, Fault, Scenario
from ccmproxy.simulator.record import ReceivedRequest, Record
from ccmproxy.simulator.server import Simulator
from ccmproxy.simulator.steps import Pace

__all__ = [
    "FAULTS",
    "SCENARIOS",
    "ApiKeyAccount",
    "ClaudeAccount",
    "CodexAccount",
    "Fault",
    "OpenAIKey",
    "Pace",
    "ReceivedRequest",
    "Record",
    "Scenario",
    "SimulatedCredits",
    "SimulatedLimit",
    "Simulator",
    "upstream_settings",
]
