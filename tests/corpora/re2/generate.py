#!/usr/bin/env python3
"""Prints patterns, values and what RE2 says of them, for `rules/re2.rs` to be held against.

Needs PyPI's google-re2. Usage: generate.py COUNT [SEED]. Each line is a JSON array: pattern, value,
and `true` or `false` for a full match; `null` as value and verdict for a pattern that RE2 rejects.
`verdicts.jsonl` is a small table of these; PODGATE_RE2_VERDICTS=FILE makes the test
`patterns_mean_what_they_mean_in_re2` read a larger one.
"""

import json
import random
import sys

import re2

TRICKY = r"""
/user/[^/&&admin]+ [a&&b] [a--b] [a~~b] [[a]b] [[] []a] [^]a] []-a] [-a] [a-] [a-b-c] [+--] [!-~]+
[[:alpha:]]+ [[:^alpha:]]+ [[:foo:]] [A-[:digit:]] [a-z-[:digit:]] \<a \>a \<a\> \b{start}a \b{2}a
(?x)a (?R)a$ (?u)a (?i)get (?i)[^k] (?i)[^s] (?i). (?-i)a (?U)a+ (?s). (?m)^a$ (?i:a)b (?P<n>a) (?<n>a)
\u0041 \U00000041 \x41 \x{41} \x{e9} \xe9 \pL \p{Greek} \Qa+b\E \C \1 \0 \07 [\b] \h \R \K \_ \& \/ \- \%
a** a+* a?? a??? a{2}{3} a{2}* (a{2}){3} a{,2} a{1,2} a{2,} a{01} a{x} a{ a{1001} (a{11}){100} (a*)* ^* $*
(|a)+ a||b () (?:) \A\z \Aa\z a\z|b ^a$|b . [^a] \d \D \w \W \s \S [\d] [^\d] [\D] /é é+ [é] .. .{2} [^/]+
\bé é\b \B. a.c /docs(/.*)?(\?.*)? /api/v[0-9]+/.* a]b a}b a\{b (?i)é a(?i)b|c (a(?i)b)c (?i)a*(?-i)b
\a \f \n \r \t \v \x7f [\x00-\x7f]* [^\x00-\x7f] (?i)[a-c]+ (?i)[^a-c] [a\-z] [a\]b] [\^a] [^^] [a^]
""".split()
ATOMS = [
    "a", "b", "k", "s", "-", "&", "~", "[", "]", "^", "$", ".", "|", "(", ")", "(?:", "(?i)", "(?i:",
    "(?s)", "(?m)", "*", "+", "?", "{2}", "{1,3}", "{,2}", "{0}", "[ab]", "[^a]", "[a-c]", "[^k]", "&&",
    "--", "~~", "[[:alpha:]", "]", r"\d", r"\w", r"\s", r"\W", r"\b", r"\B", r"\.", r"\-", r"\<", "é",
    r"\x41", "/", ":", ",", "<", ">", "P", "=", "!", "x", "#", " ",
]
VALUES = [
    "", "a", "b", "ab", "aa", "aaa", "abc", "a-b", "&", "a&b", "a&&b", "-", "~", "]", "[", "^", "k", "K",
    "s", "S", "\u212a", "\u017f", "é", "éé", "aé", "\u20ac", "\U0001f600", "\n", "a\nb", " ", "A", "AB",
    "/", "//", ":", "<a", "a>", "{2}", "a{2}", "a{,2}", "0", "7", "_", "x", "P", "#", "é\u20ac",
    "/user/admin", "/user/bob", "/docs", "/docs/x?y=é", "/api/v1/x", "get", "GeT",
]


def random_pattern(rng):
    return "".join(rng.choice(ATOMS) for _ in range(rng.randint(1, 7)))


def main():
    count = int(sys.argv[1])
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    options = re2.Options()
    options.log_errors = False
    patterns = dict.fromkeys(TRICKY)
    while len(patterns) < count:
        patterns.setdefault(random_pattern(rng))
    for pattern in patterns:
        try:
            compiled = re2.compile(pattern, options)
        except re2.error:
            print(json.dumps([pattern, None, None]))
            continue
        for value in rng.sample(VALUES, 6) + [value for value in VALUES if value in pattern][:2]:
            print(json.dumps([pattern, value, compiled.fullmatch(value) is not None]))


main()
