"""Fuzzing of everything that reads what a stranger may have written.

    python -m tests.fuzz --minutes 30                     all targets, one after the other
    python -m tests.fuzz --minutes 5 --target index       one of them
    python -m tests.fuzz --engine atheris --minutes 30    guided by coverage; needs the extra `fuzz`

A target takes a valid object apart, changes it where its structure is, often seals it again as an attacker would, and
reads it. Only an EncodeOnceError may come of it, or what may be had honestly; soon, and in little memory. test_fuzz.py
runs a short form of each target with hypothesis.
"""
