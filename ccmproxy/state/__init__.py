"""What is known of a credential: its limits, whether it can be used, how inputs change that. Pure."""
