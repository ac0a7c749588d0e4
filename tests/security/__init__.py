"""Hostile files: what each costs whoever reads it.

python -m tests.security        the table of docs/reliability/hostile-files.md
"""
