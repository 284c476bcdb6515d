"""From metrics to files: what a run stores of each object (`records`, `provenance`), averages over objects (`summary`),
tables, plots and sheets, and the report that `writer` makes of them. `runs` reads a finished run, `comparison` compares
two, and `readme_tables` brings their numbers to README.md.
"""
