"""Pictures and tables about a model, a run, a machine."""
