"""Readers of posed view sets, sampling of training sets, and augmentations that act alike on all views of a set."""
