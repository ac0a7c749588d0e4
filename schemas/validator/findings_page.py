"""Writes `docs/findings.md`: run as `python -m schemas.validator.findings_page > docs/findings.md`."""

from __future__ import annotations

from schemas.validator.codes import Code


def findings_page() -> str:
    """The text of `docs/findings.md`."""
    lines = [
        "# What the validator finds",
        "",
        "`python -m schemas validate URL` prints a code for all it finds. Codes are stable and never reused; the",
        "errors that the reader raises carry the same ones. Exit status: 0 if there is no error, 1 if there is one, 2",
        "if the dataset could not be reached or the command line is wrong. Warnings and notes do not change it.",
        "",
        "Made from `schemas/validator/codes.py` by `python -m schemas.validator.findings_page > docs/findings.md`.",
        "",
        "| code | severity | meaning | remedy |",
        "|---|---|---|---|",
    ]
    rows = [f"| `{code.code}` | {code.severity.value} | {code.meaning} | {code.remedy} |" for code in Code]
    lines += [row.replace("<", "&lt;") for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(findings_page(), end="")
