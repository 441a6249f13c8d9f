"""The real Codex CLI and OpenAI's Python SDK as programs to test against, where they are installed.

``CCMPROXY_INTEROP_DIR`` (see :mod:`tests.interop.claude_cli`) holds ``codex-latest``, with a ``node_modules`` folder
that has ``@openai/codex`` in it, and ``openai-sdk``, a virtual environment with ``openai`` and ``websockets`` in it.
What is missing is skipped, with a reason.

Each run has a home folder of its own, talks to the loopback interface alone, and is bounded in time.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tests.interop.claude_cli import NOT_ASKED_FOR, Outcome, interop_directory

#: The model of all runs.
MODEL = "gpt-5.4"

#: A provider of the operator's own, and nothing that is not needed for a turn: no other host is asked for anything.
_CONFIGURATION = """\
model = "{model}"
model_provider = "mux"
check_for_update_on_startup = false
approval_policy = "never"
sandbox_mode = "danger-full-access"

[analytics]
enabled = false

[features]
plugins = false
unbounded_connection_retries = false

[model_providers.mux]
name = "mux"
base_url = "{base_url}"
wire_api = "responses"
env_key = "MUX_TOKEN"
supports_websockets = {websockets}
stream_idle_timeout_ms = 5000
{more}
"""


def codex_command() -> list[str] | str:
    """How to start the CLI, or a sentence that says why it cannot be started."""
    directory = interop_directory()
    if directory is None:
        return NOT_ASKED_FOR
    script = directory / "codex-latest" / "node_modules" / "@openai" / "codex" / "bin" / "codex.js"
    if not script.is_file():
        return f"Codex is not installed in {directory / 'codex-latest'}"
    node = shutil.which("node")
    return [node, str(script)] if node else "Codex needs node"


def sdk_command() -> list[str] | str:
    """A Python that has the SDK, or a sentence that says why there is none."""
    directory = interop_directory()
    if directory is None:
        return NOT_ASKED_FOR
    python = directory / "openai-sdk" / "bin" / "python"
    if not python.is_file():
        return f"the Python SDK of OpenAI is not installed in {python.parent.parent}"
    return [str(python)]


def codex_environment(home: Path, token: str) -> dict[str, str]:
    """The environment of one run of the CLI: nothing of ours but the path, and the token."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "CODEX_HOME": str(home / ".codex"),
        "MUX_TOKEN": token,
    }


def sdk_environment(home: Path, url: str, token: str) -> dict[str, str]:
    """The environment of one run of the SDK. ``url``: with its ``/v1``."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": token,
    }


def write_configuration(home: Path, base_url: str, *, websockets: bool, catalog_url: str = "") -> None:
    """Write the CLI's configuration. ``catalog_url``: where it is to get its list of models, if anywhere."""
    folder = home / ".codex"
    folder.mkdir(exist_ok=True)
    text = _CONFIGURATION.format(
        model=MODEL,
        base_url=base_url,
        websockets=str(websockets).lower(),
        more=f'model_catalog_url = "{catalog_url}"' if catalog_url else "",
    )
    (folder / "config.toml").write_text(text, encoding="utf-8")


class Run:
    """What ``codex exec --json`` printed. ``events``: its lines; ``items``: those that were completed."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.events: list[dict[str, Any]] = [
            json.loads(line) for line in outcome.output.splitlines() if line.startswith("{")
        ]
        self.items = [event["item"] for event in self.events if event["type"] == "item.completed"]

    @property
    def thread(self) -> str:
        """The conversation's id."""
        return str(self.of("thread.started")[0]["thread_id"])

    @property
    def usage(self) -> dict[str, int]:
        """The tokens of the turn."""
        (completed,) = self.of("turn.completed")
        return dict(completed["usage"])

    @property
    def text(self) -> str:
        """The last thing that the model said."""
        return str(self.said("agent_message")[-1])

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [event for event in self.events if event["type"] == kind]

    def said(self, kind: str) -> list[str]:
        """The texts of the completed items of one kind."""
        return [item["text"] for item in self.items if item["type"] == kind]
