"""What a person sees of a sweep: tables, live view, status, logs, events, audit."""
