"""Faults on purpose: `python tests/campaign` stops and starves every long command, and says what became of it.

jobs.py      the commands, on tiny models, and what must come out of each
children.py  one run of a command in a process of its own, with a fault
trials.py    each kind of fault, tried on a job
"""
