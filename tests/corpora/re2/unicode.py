#!/usr/bin/env python3
"""Prints RE2's tables of Unicode.

Needs PyPI's google-re2. Usage: unicode.py <unicode.jsonl >NEW, which prints the tables of the names
in unicode.jsonl, and of all names of one or two letters. Each line is a JSON array: a name of
`\\p{...}` and ranges of code points, each as its first and last one; at the end `(?i)` and pairs of
different code points that match each other. Surrogates are left out.
"""

import json
import string
import sys

import re2

OPTIONS = re2.Options()
OPTIONS.log_errors = False
POINTS = [point for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF]
# All code points for which case might be ignored: none are in the blocks of Chinese and Korean, nor
# behind Adlam.
CASED = [point for point in POINTS if point < 0x3400 or 0xA000 <= point < 0xAC00 or point >= 0xF900]
CASED = [point for point in CASED if point < 0x1F200]


def is_known(name):
    try:
        re2.compile(r"\p{%s}" % name, OPTIONS)
    except re2.error:
        return False
    return True


def table(name):
    text = "".join(map(chr, POINTS))
    ranges = []
    for match in re2.finditer(r"\p{%s}+" % name, text):
        begin, end = match.span()
        low, high = POINTS[begin], POINTS[end - 1]
        # The text has no surrogates, so that a match may reach over them.
        ranges += [[low, 0xD7FF], [0xE000, high]] if low < 0xD800 < high else [[low, high]]
    return ranges


def folds():
    text = "".join(map(chr, CASED))
    for point in CASED:
        for match in re2.findall(r"(?i)\x{%x}" % point, text):
            if ord(match) != point:
                yield [point, ord(match)]


def main():
    names = {json.loads(line)[0] for line in sys.stdin}
    letters = string.ascii_letters
    names |= {*letters, *(a + b for a in letters for b in letters)}
    for name in sorted(filter(is_known, names)):
        print(json.dumps([name, table(name)], separators=(",", ":")))
    print(json.dumps(["(?i)", list(folds())], separators=(",", ":")))


main()
