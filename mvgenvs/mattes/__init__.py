"""Mattes of photos: where the object is, found without a person's help. `cut.py` chooses the way; the rest are ways."""
