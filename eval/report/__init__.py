"""From figures to files: what a run keeps of each object (`records`, `provenance`), averages over objects (`summary`),
tables, plots and sheets, and the report that `writer` makes of them. `runs` reads a finished run back, `comparison`
puts two side by side, and `readme_tables` brings their figures to README.md.
"""
