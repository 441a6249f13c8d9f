"""The interfaces to users and programs: the paths that are served, the status endpoint, and the command line."""
