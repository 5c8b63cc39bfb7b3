"""Container engines: the only rooms that talk to one. Each is imported when a job or a probe needs it."""
