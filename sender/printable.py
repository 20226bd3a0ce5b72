"""Texts that may be a stranger's, as a terminal or a log may show them.

Pure. An EHLO reply, an SMTP answer or a rua can hold characters that move the cursor, change colours or turn the
direction of writing; they are shown, as escapes.
"""


def escaped(text: str) -> str:
    r"""Return a text with an escape such as ``\x1b`` for each character that does not print."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
