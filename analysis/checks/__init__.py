"""Whether a law can be trusted: diagnostics, influence, variants, held-out budgets, selection."""
