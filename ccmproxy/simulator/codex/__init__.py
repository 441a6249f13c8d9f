"""Codex's side of the simulator: ChatGPT accounts and keys of the OpenAI API, over HTTP, SSE and WebSocket."""
