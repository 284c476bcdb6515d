"""Readers of posed view sets, sampling of training sets, and augmentations that treat all views of a set alike."""
