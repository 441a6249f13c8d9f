"""What people and programs touch: the paths that are served, the status, the command line."""
