#!/usr/bin/env python3
"""Prints patterns, values and what RE2 says of them.

Needs PyPI's google-re2. Usage: generate.py COUNT [SEED]

Each line is a JSON array: a pattern, values that it matches as a whole, and values that it does not;
both are `null` if RE2 rejects the pattern. A value is bytes, as Latin-1 text. The same arguments make
the same patterns and values.
"""

import json
import random
import sys

import re2

# Split at white space: the patterns have none.
SPECIAL = r"""
/user/[^/&&admin]+ [a&&b] [a--b] [a~~b] [[a]b] [[] []a] [^]a] []-a] [-a] [a-] [a-b-c] [+--] [!-~]+
[[:alpha:]]+ [[:^alpha:]]+ [[:foo:]] [[:foo] [[:foo]bar:] [A-[:digit:]] [a-z-[:digit:]] [[:word:]] [[:]
[[:ascii:]]+ [[:blank:]] [[:cntrl:]]+ [[:graph:]]+ [[:lower:]]+ [[:print:]]+ [[:punct:]]+ [[:space:]]
[[:upper:]]+ [[:xdigit:]]+ [[:alnum:]]+ [[:digit:]]+ [[.a.]] [[=a=]] [[:^word:]] [[:WORD:]] [:alpha:]
\<a \>a \<a\> \b{start}a \b{2}a \b* \b+ \b? (?:\b){1000} \B\B a\bb a\Bb \b \B
(?x)a (?R)a$ (?u)a (?i)get (?i)[^k] (?i)[^s] (?i). (?-i)a (?U)a+ (?s). (?m)^a$ (?i:a)b (?P<n>a) (?<n>a)
(?i)k (?i)s (?i)\w (?i)\W (?i)[[:lower:]] (?i)[[:^upper:]] (?i)\pL (?i)\PL (?i)\p{Lu} (?i)\p{Greek} (?i)ß
(?i)ǆ (?i)σ (?i)[α-ω]+ (?i)[^α-ω]+ (?i)µ (?i)Å (?i)İ (?i)ı (?i)ᏸ (?i)\x{a64b} (?i)\x{264} (?i)\x{19b}
(?i) (?i (? (?) (?-) (?i-) (?--i) (?i-i)a (?ii)a (?: (?:) (?:a (?ims-U:a) (?ims-U:a). (?s-i:.) (?i-s).
(?P<n>a)(?P<n>b) (?<n>a)(?<n>b) (?P<é>a) (?P<n.a>a) (?P<>a) (?P<n (?<n (?<>a) (?P=n) (?'n'a) (?P>n) (?P
(?P<١>a) (?P<€>a) (?P<a̧>a) (?=a) (?!a) (?<=a) (?<!a) (?<=a>b) (?>a) (?#a) (?|a) (?&a) (?1) (?R)
\u0041 \U00000041 \x41 \x{41} \x{e9} \xe9 \pL \p{Greek} \Qa+b\E \C \1 \0 \07 [\b] \h \R \K \_ \& \/ \- \%
\x \x4 \xg \x{ \x{} \x{41 \x{0000000041} \x{110000} \x{10ffff} \x{d800} \x{dfff}| [\x{d800}-\x{dfff}] \x{7f}
\8 \9 \08 \012 \18 \12 \123 \777 \400 \377 \1234 \00 \000 \0000 [\1] [\12] [\0] [\8] \é [\é] \⁄ \Z \z \G \X \N
\Q \Qab \Q\E \Qab\E* \Q\E* a\Q\E* a*\Q\E* [\Qa] \E \Q\\E \Qa\ \Qé\E+ (?i)\Qk\E \Q*\E \Q\Q\E \Qa\Eb\Ec
\pN \p{N} \p{Nd} \p{^Greek} \P{^Greek} \p \pé \p{ \p{Foo} \p{L \pq \p^ \p{^} \p{} \pLu \p{Any} \P{Any} \p{any}
\p{Script=Greek} \p{Latin}+ \p{Kawi} \p{Garay} \p{C} \p{Cn} \p{Cs} \p{Lc} \p{LC} \p{L&} \p{Han}+ \p{greek}
[\pL] [^\pL] [\PL] [^\PL\d] [\p{Greek}a-c] [\p [\p] [\p{Greek [a-\pL] [\pL-z] [\p{^Greek}] \P{Lu}\p{Lu}
a** a+* a?? a??? a{2}{3} a{2}* (a{2}){3} a{,2} a{1,2} a{2,} a{01} a{x} a{ a{1001} (a{11}){100} (a*)* ^* $*
a*? a*?? a+?? a{2}? a{2}?? a{2}?* a{2,1} a{0} a{0,0} a{1000} a{1000,} a{1001,} a{0,1001} a{999999999}
a{9999999999} a{1,9999999999} a{1,999999999} a{00} a{0,00} {2} {2 {,2} { } {} {x} a{2}{ a{2}{x a{2}} a{-1}
((a{2}){3}){200} ((a{10}){10}){10} (a{0}){1000} (a{500}|b{3}){3} (?:a{500}|b{3}){2} (a{32}){32} (a{33,}){31}
* + ? |* (* (|*) a|* (?i)* a(?i)* a*(?i)* ()* (?:)* ()+ ( ) a) (a |) (|) | || a| |a (a|) (|a)+ (?:|a)*
(|a)* a||b () \A\z \Aa\z a\z|b ^a$|b . [^a] \d \D \w \W \s \S [\d] [^\d] [\D] /é é+ [é] .. .{2} [^/]+
\bé é\b \B. a.c /docs(/.*)?(\?.*)? /api/v[0-9]+/.* a]b a}b a\{b (?i)é a(?i)b|c (a(?i)b)c (?i)a*(?-i)b
\a \f \n \r \t \v \x7f [\x00-\x7f]* [^\x00-\x7f] (?i)[a-c]+ (?i)[^a-c] [a\-z] [a\]b] [\^a] [^^] [a^]
[ [] [^] []] [^]] [a [a- [a-] [z-a] [a-\d] [\d-z] [\w-.] [--a] [a--] [-] [--] [---] [\-] [\] \ a\ \\ [\\] [^
[^\x{e9}] [^é] [é-ü]+ [^é-ü]+ [\x{80}-\x{10ffff}] [\x{81}-\x{10ffff}] [^\x00-\x{10ffff}] [^\x00-\x{10ffff}]*
[\x00-\x{10ffff}] [\x{d7ff}-\x{e000}] [\x{dc00}-\x{ffff}] [\x{d83f}-\x{d901}] [\x{800}-\x{fffe}] \C* \C\C .\C
[Kk] [Kk]|x x|[Kk] [Ss]|x [Kk]|[Ss] [Kk]|[Kk] [Kk]|xy xy|x[Kk] x[Kk]|y x(?:y[Kk])|xyz (?:a|b[Kk])|bc K|k|x
[Kk]|y* ([Kk])|x (?i)[Kk]|x a[Kk]|b[Kk] [Kk]a|[Kk]b [Gg][Ee][Tt] [Gg][Ee][Tt]|[Pp][Oo][Ss][Tt] [Kk]+|x
(?m)^ (?m)$ (?m)^a$ (?m)(^a$\n?)+ (?m)a$\nb (?m)\A (?m)\z (?-m)$ (?m:$)\n (?m)^\n^ a^b a$b (^a) (a$) $^ ^$
(((((((((((((((((((a))))))))))))))))))) (?:(?:(?:(?:(?:(?:a)*)+)?)*)*)* ((((a*)b)*c)*d)* .{1000} [^/]{100}
""".split()
ATOMS = [
    "a", "b", "k", "s", "-", "&", "~", "[", "]", "^", "$", ".", "|", "(", ")", "(?:", "(?i)", "(?i:",
    "(?s)", "(?m)", "*", "+", "?", "{2}", "{1,3}", "{,2}", "{0}", "[ab]", "[^a]", "[a-c]", "[^k]", "&&",
    "--", "~~", "[[:alpha:]", "]", r"\d", r"\w", r"\s", r"\W", r"\b", r"\B", r"\.", r"\-", r"\<", "é",
    r"\x41", "/", ":", ",", "<", ">", "P", "=", "!", "x", "#", " ", "(?", "i", ":]", "[:", "\\", "p",
    "{", "}", "Q", "E", "0", "1", "7", r"\Q", r"\E", r"\C", r"\pL", r"\p{", "Greek}", r"\x{", "[^", "K",
    "?", "U", "m", r"\z", r"\A", "\n", "\u212a", "L", "[Kk]", "[Ss]",
]
VALUES = [
    "", "a", "b", "ab", "aa", "aaa", "abc", "a-b", "&", "a&b", "a&&b", "-", "~", "]", "[", "^", "k", "K",
    "s", "S", "\u212a", "\u017f", "é", "éé", "aé", "\u20ac", "\U0001f600", "\n", "a\nb", " ", "A", "AB",
    "/", "//", ":", "<a", "a>", "{2}", "a{2}", "a{,2}", "0", "7", "_", "x", "P", "#", "é\u20ac", "ω", "Ω",
    "/user/admin", "/user/bob", "/docs", "/docs/x?y=é", "/api/v1/x", "get", "GeT", "xK", "x\u212a", "É", "ı",
    "\x00", "\x07", "\x0b", "\x7f", "٣", "\ufffd", "\uffff", "\U0010ffff", "ß", "ẞ", "ǅ", "\u0345", "µ",
]
# Not UTF-8, or only by some readings of it: cut, surrogates, overlong, beyond U+10FFFF.
RAW = [
    b"\xff", b"\x80", b"\xc3", b"\xc3\xc3", b"a\xff", b"\xffa", b"\xc0\x80", b"\xc1\xbf", b"\xe2\x82",
    b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xb0\x80", b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf4\xbf\xbf\xbf", b"\xf5\x80\x80\x80", b"\xf0\x9f\x98",
    b"\xc3\xa9\xff", b"\xa9", b"/\xe9",
]
LETTERS = "aAbBkKsSxzZ019_-./é\u017f\u212aΩω\U0001f600"
NAMES = [
    "L", "Lu", "Ll", "N", "Nd", "P", "S", "Z", "Zs", "C", "Cc", "Cs", "M", "Greek", "Latin", "Cyrillic",
    "Han", "Common", "Any", "Lt", "Sm", "^Lu", "^Greek",
]
POSIX = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
]


def soup(rng):
    """A pattern of random pieces, which RE2 rejects more often than not."""
    return "".join(rng.choice(ATOMS) for _ in range(rng.randint(1, 7))), lambda: ""


def literal(rng):
    c = rng.choice(LETTERS)
    forms = [c] * 6 + [r"\x{%x}" % ord(c), r"\Q%s\E" % c]
    if ord(c) < 256:
        forms.append(r"\x%02x" % ord(c))
    if c in ".-/_":
        forms = ["\\" + c]
    return rng.choice(forms), lambda: c


def bracket(rng):
    """A class in brackets, of which samples are guessed."""
    parts, guesses = [], []
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(8)
        if kind < 3:
            c = rng.choice(LETTERS.replace("-", ""))
            parts.append(c)
            guesses.append(c)
        elif kind < 5:
            low, high = sorted((rng.choice(LETTERS), rng.choice(LETTERS)))
            parts.append(r"\x{%x}-\x{%x}" % (ord(low), ord(high)))
            guesses += [low, high, chr((ord(low) + ord(high)) // 2)]
        elif kind == 5:
            parts.append("[:%s%s:]" % (rng.choice(["", "", "^"]), rng.choice(POSIX)))
        elif kind == 6:
            parts.append(rng.choice([r"\d", r"\w", r"\s", r"\D", r"\W", r"\S"]))
        else:
            parts.append(r"\%s{%s}" % (rng.choice("pP"), rng.choice(NAMES)))
    guesses += rng.sample(LETTERS, 4)
    negated = rng.choice(["", "", "^"])
    return "[%s%s]" % (negated, "".join(parts)), lambda: rng.choice(guesses)


def single(rng):
    kind = rng.randrange(12)
    if kind < 5:
        return literal(rng)
    if kind < 8:
        return bracket(rng)
    if kind == 8:
        return rng.choice([".", "(?s:.)", r"\C"]), lambda: rng.choice(LETTERS + "\n")
    if kind == 9:
        named = r"\%s{%s}" % (rng.choice("pP"), rng.choice(NAMES))
        return named, lambda: rng.choice(LETTERS)
    if kind == 10:
        return rng.choice([r"\d", r"\w", r"\s", r"\D", r"\W", r"\S"]), lambda: rng.choice("a0 .é")
    look = rng.choice([r"\b", r"\B", "^", "$", "(?m:^)", "(?m:$)", r"\A", r"\z", "(?i)", "(?m)", "(?s)"])
    return look, lambda: rng.choice(["", "", "\n"])


def tree(rng, depth):
    """A pattern that RE2 accepts, as a rule, and a function that guesses what it matches."""
    kind = rng.randrange(10) if depth else 0
    if kind < 3:
        return single(rng)
    if kind < 6:
        subs = [tree(rng, depth - 1) for _ in range(rng.randint(2, 4))]
        return "".join(text for text, _ in subs), lambda: "".join(sample() for _, sample in subs)
    if kind < 8:
        subs = [tree(rng, depth - 1) for _ in range(rng.randint(2, 3))]
        begin = rng.choice(["(", "(?:", "(?i:", "(?P<n>", "(?s:", "(?-i:", "(?m:"])
        return begin + "|".join(text for text, _ in subs) + ")", lambda: rng.choice(subs)[1]()
    text, sample = tree(rng, depth - 1)
    low, high, sign = rng.choice(
        [(0, 3, "*"), (1, 3, "+"), (0, 1, "?"), (2, 2, "{2}"), (1, 3, "{1,}"), (0, 2, "{0,2}"), (0, 0, "{0}")]
    )
    lazy = rng.choice(["", "", "?"])
    return "(?:%s)%s%s" % (text, sign, lazy), lambda: "".join(
        sample() for _ in range(rng.randint(low, high))
    )


def mutate(rng, value):
    """Bytes that are nearly the value's."""
    data = bytearray(value.encode())
    kind = rng.randrange(6)
    at = rng.randrange(len(data) + 1)
    if kind == 0 and data:
        del data[min(at, len(data) - 1)]
    elif kind == 1:
        data.insert(at, rng.choice(b"ak\n\xff\x80\xc3/"))
    elif kind == 2:
        return value.swapcase().encode()
    elif kind == 3:
        return value.replace("k", "\u212a").replace("s", "\u017f").encode()
    elif kind == 4:
        data[at:at] = rng.choice(RAW)
    return bytes(data)


def values(rng, pattern, sample):
    guesses = [sample() for _ in range(4)]
    found = [guess.encode() for guess in guesses]
    found += [mutate(rng, rng.choice(guesses)) for _ in range(3)]
    found += [value.encode() for value in rng.sample(VALUES, 5)]
    found += [value.encode() for value in VALUES if value in pattern][:2]
    return list(dict.fromkeys(found + rng.sample(RAW, 2)))


def verdicts(count, seed):
    rng = random.Random(seed)
    options = re2.Options()
    options.log_errors = False
    patterns = {pattern: lambda: rng.choice(VALUES) for pattern in SPECIAL}
    while len(patterns) < count:
        pattern, sample = soup(rng) if rng.randrange(4) == 0 else tree(rng, rng.randint(1, 4))
        patterns.setdefault(pattern, sample)
    for number, (pattern, sample) in enumerate(patterns.items()):
        try:
            compiled = re2.compile(pattern, options)
        except re2.error:
            print(json.dumps([pattern, None, None]))
            continue
        tried = values(rng, pattern, sample)
        if number < len(SPECIAL):
            tried += rng.sample(RAW, 6)
        found = {True: [], False: []}
        for value in dict.fromkeys(tried):
            found[compiled.fullmatch(value) is not None].append(value.decode("latin-1"))
        print(json.dumps([pattern, found[True], found[False]], ensure_ascii=False))


def main():
    verdicts(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)


if __name__ == "__main__":
    main()
