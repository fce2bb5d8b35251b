"""Loads the vocabulary on standard input, in a process of its own: whatever that does, it does not do it to the caller.

Run by path with the kind of file, "model" or "json"; see `model_file.check_in_child`. The input is the length of the
compiled normalisation rules (eight bytes), these rules, and the file. It imports nothing of the package, and so
starts in a tenth of a second. Where it has loaded the file it says so: another program than Python would not.
"""

import contextlib
import struct
import sys

LOADED = b"loaded"
NOT_INSTALLED = 69  # Exit status; 1 and 2 are Python's own.

try:
    import sentencepiece
    import tokenizers
except ImportError as error:
    if __name__ != "__main__":
        raise
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(NOT_INSTALLED)

try:
    import resource
except ImportError:  # Not on every system.
    resource = None

MAX_MEMORY = 8 << 30
# Normalisation rules are looked up by what begins a text, so every character begins one somewhere in here.
CHARACTERS = "".join(chr(code) for code in range(1, 0x10000) if not 0xD800 <= code < 0xE000)
TEXTS = (
    "",
    " ",
    "a  b",
    CHARACTERS,
    CHARACTERS[::-1],
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301\u0323 \U00020000",
)


def limit_memory() -> None:
    """Keeps a file of a few bytes from asking for all memory."""
    if resource is not None:
        given, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = min([MAX_MEMORY, *(value for value in (given, most) if value != resource.RLIM_INFINITY)])
        with contextlib.suppress(ValueError, OSError):  # macOS has the name but not the limit.
            resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def try_model(content: bytes) -> None:
    """Everything that the package does with a SentencePiece model."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
    ids = list(range(pieces.get_piece_size()))
    pieces.id_to_piece(ids)
    pieces.decode(ids)
    for text in TEXTS:
        pieces.encode(text)


def try_json(content: bytes) -> None:
    """Everything that the package does with a tokenizer of the `tokenizers` library."""
    tokenizer = tokenizers.Tokenizer.from_buffer(content)
    for text in TEXTS:
        tokenizer.encode(text)


def try_rules(charsmap: bytes) -> None:
    """Compiled normalisation rules: SentencePiece checks all of them when it loads a model, the other library none."""

    def message(field: int, content: bytes) -> bytes:
        size, rest = bytearray(), len(content)
        while rest > 0x7F:
            size.append(rest & 0x7F | 0x80)
            rest >>= 7
        return bytes([field << 3 | 2, *size, rest]) + content

    pieces = message(1, message(1, b"<unk>") + b"\x18\x02") + message(1, message(1, b"a"))
    sentencepiece.SentencePieceProcessor(model_proto=pieces + message(3, message(2, charsmap)))
    rules = tokenizers.normalizers.Precompiled(charsmap)
    for text in TEXTS:
        rules.normalize_str(text)


def main() -> None:
    """Tries the file that comes on the standard input: the length of its rules, the rules, its content."""
    limit_memory()
    given = sys.stdin.buffer.read()
    (size,) = struct.unpack_from("<Q", given)
    charsmap, content = given[8 : 8 + size], given[8 + size :]
    if charsmap:
        try_rules(charsmap)
    (try_json if sys.argv[1] == "json" else try_model)(content)
    sys.stdout.buffer.write(LOADED)


if __name__ == "__main__":
    main()
