"""Names that a file system allows and that mean something else in a URL, glob, pattern or shell."""

ODD_NAMES = (
    *("lab #3", "100%41", "what?", "a[b]", "a]b[", "a|b", "a\\b", "a*b", "a**b", "{x}", "$HOME"),
    *('say "x"', "it's", "new\nline", "é漢", "a;b&c"),
)
ALL_AT_ONCE = '#3 %41 ? [ab] | \\n ** {x} "q" it\'s é漢 $HOME;&'
