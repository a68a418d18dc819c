"""Training: the compiled step, optimisers, schedules, the trainer, callbacks."""
