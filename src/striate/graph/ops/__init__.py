"""The operations, one family a file; each holds its shape rule, meaning, gradient and cost."""
