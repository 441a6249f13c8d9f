"""What users are routed to: one credential, or a pool of them that sessions are spread over."""
