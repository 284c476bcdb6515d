"""Triangle meshes: one type, one loader per file format, one renderer."""
