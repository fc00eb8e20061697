"""Training: a patch store to a run folder."""
