"""The answer: which family and size a budget should buy, how sure that is, and what a loss costs."""
