"""Evaluation: the lmms-eval model, the local tasks, the sweep over cells and its result tables."""
