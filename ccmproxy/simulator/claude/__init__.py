"""Claude's side of the simulator: accounts and their files, messages, limits, the token endpoint."""
