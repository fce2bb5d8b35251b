"""The parts of a unigram tokenizer, from a `.model` or a `tokenizer.json`, and how the `tokenizers` library joins them.

Of a `tokenizer.json` only what RemBERT's can hold is read, each part checked, and the tokenizer is built from these parts:
a file cannot bring its own regular expressions or processors.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import logging
import math
import pathlib
from collections.abc import Sequence, Set
from typing import Any, cast

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from rembert_jax.tokenization.model_file import ModelFile, TokenizerError

logger = logging.getLogger(__name__)

SPACE = "\u2581"
# Quotes as the Penn Treebank writes them, and repeated spaces; SentencePiece knows nothing of these.
REPLACEMENTS = (("String", "``", '"'), ("String", "''", '"'), ("Regex", " {2,}", " "))


@dataclasses.dataclass(frozen=True)
class Added:
    """A piece that is looked for in the text before anything else; fields are those of `tokenizers.AddedToken`."""

    id: int
    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    def token(self) -> AddedToken:
        """The same for the `tokenizers` library."""
        return AddedToken(self.content, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)[2:]})


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnigramParts:
    """Everything that a unigram tokenizer is made of.

    Attributes:
      pieces: each with its score, by id.
      unk_id: id of the unknown piece.
      charsmap: SentencePiece's compiled normalisation rules; empty where there are none.
      prefix: whether a text gets a space at its beginning.
      do_lower_case, keep_accents: what happens to letters before that.
      added: pieces that are looked for first.
      unused: ids that no text is cut into.
    """

    pieces: list[tuple[str, float]]
    unk_id: int
    charsmap: bytes
    prefix: bool
    do_lower_case: bool = False
    keep_accents: bool = True
    added: tuple[Added, ...] = ()
    unused: frozenset[int] = frozenset()

    def beyond(self) -> list[Added]:
        """Tokens whose ids come after the vocabulary's."""
        return [token for token in self.added if token.id >= len(self.pieces)]

    def build(self, template: tuple[str, str] | None) -> tokenizers.Tokenizer:
        """The tokenizer; `template` names the pieces for [CLS] and [SEP], for other programs that load the file."""
        made = tokenizers.Tokenizer(models.Unigram(self.pieces, self.unk_id, byte_fallback=False))
        steps: list[Any] = [
            normalizers.Replace(Regex(old) if kind == "Regex" else old, new) for kind, old, new in REPLACEMENTS
        ]
        steps += [] if self.keep_accents else [normalizers.NFKD(), normalizers.StripAccents()]
        steps += [normalizers.Lowercase()] if self.do_lower_case else []
        steps += [normalizers.Precompiled(self.charsmap)] if self.charsmap else []
        made.normalizer = cast(Any, normalizers.Sequence(steps))
        scheme = "always" if self.prefix else "never"
        made.pre_tokenizer = cast(Any, pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme))
        made.decoder = cast(Any, decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme))
        # All at once: each addition goes over those before it.
        made.add_tokens([token.token() for token in sorted(self.added, key=lambda token: token.id)])
        if template is not None:
            cls, sep = template
            made.post_processor = cast(
                Any,
                processors.TemplateProcessing(
                    single=f"{cls}:0 $A:0 {sep}:0",
                    pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
                    special_tokens=[(piece, made.token_to_id(piece)) for piece in template],
                ),
            )
        return made

    def with_special(self, special: Set[int], mask: int) -> UnigramParts:
        """The same parts with every special piece among those looked for first, and a mask that takes its space."""
        added = {token.id: token for token in self.added}
        for i in sorted(special - added.keys()):
            added[i] = Added(i, self.pieces[i][0], special=True)
        added[mask] = Added(mask, added[mask].content, special=True, lstrip=True)
        return dataclasses.replace(self, added=tuple(added.values()))

    def without_special(self) -> UnigramParts:
        """The same for texts in which no piece is special.

        Not looking for special pieces is not enough: they are in the unigram model too, which likes them best of all.
        With a space in their name, which no text has at this stage, they fit nowhere.
        """
        special = {token.id for token in self.added if token.special} | {self.unk_id}
        lowest = min(score for _, score in self.pieces)
        beyond = [(token.content, lowest) for token in self.beyond()]
        pieces = [(f"{p} ", s) if i in special else (p, s) for i, (p, s) in enumerate([*self.pieces, *beyond])]
        return dataclasses.replace(self, pieces=pieces, added=tuple(t for t in self.added if not t.special))


def obstacles(model: ModelFile) -> str:
    """Why the `tokenizers` library would read a SentencePiece model as something else; empty where it would not."""
    wrong = [
        (not model.unigram, "it is no unigram model"),
        (model.byte_fallback, "it has pieces for bytes"),
        (model.space_at_end, "it puts the space of a word to its end"),
    ]
    return ", and ".join(reason for is_wrong, reason in wrong if is_wrong)


def from_model(model: ModelFile) -> UnigramParts:
    """The parts of a SentencePiece model.

    Raises:
      TokenizerError: if it is of a kind that the `tokenizers` library would read as something else.
    """
    if reasons := obstacles(model):
        raise TokenizerError(f"{model.path}: {reasons}; use RemBertTokenizer, which can do that")
    p = model.processor()
    ids = list(range(p.get_piece_size()))
    names, scores = cast(list[str], p.id_to_piece(ids)), cast(list[float], p.get_score(ids))
    added = [Added(i, names[i], special=True) for i in ids if p.is_control(i) or p.is_unknown(i)]
    added += [Added(i, names[i], special=False) for i in model.user_defined]
    return UnigramParts(
        pieces=list(zip(names, scores, strict=True)),
        unk_id=p.unk_id(),
        charsmap=model.charsmap,
        prefix=model.prefix,
        added=tuple(added),
        unused=frozenset(i for i in ids if p.is_unused(i)),
    )


def read_json(path: pathlib.Path, values: dict[str, Any]) -> UnigramParts:
    """The parts of a parsed `tokenizer.json`.

    Raises:
      TokenizerError: naming the part that RemBERT's files do not have, or whose type is wrong.
    """
    known = {
        "version",
        "truncation",
        "padding",
        "added_tokens",
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
    }
    if strange := sorted(set(values) - known - {"model"}):
        logger.warning("%s: unknown keys are ignored: %s", path, ", ".join(strange))
    for key in ("truncation", "padding"):
        if values.get(key) is not None:
            logger.warning("%s: %s is ignored; give it in the call", path, key)
    try:
        pieces, unk_id = _vocabulary(_object(values.get("model"), "model"))
        charsmap, lower, keep = _normalizer(_object(values.get("normalizer"), "normalizer"))
        return UnigramParts(
            pieces=pieces,
            unk_id=unk_id,
            charsmap=charsmap,
            prefix=_prefix(_object(values.get("pre_tokenizer"), "pre_tokenizer")),
            do_lower_case=lower,
            keep_accents=keep,
            added=tuple(_added(values.get("added_tokens"), pieces)),
        )
    except (ValueError, OverflowError) as error:
        raise TokenizerError(
            f"{path}: {error}; this is no tokenizer of RemBERT, or a damaged one: get it anew, or use the .model file"
        ) from None


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.60}, expected an object")
    return value


def _vocabulary(model: dict[str, Any]) -> tuple[list[tuple[str, float]], int]:
    if model.get("type") != "Unigram" or model.get("byte_fallback"):
        found = f"{model.get('type')!r}{' with pieces for bytes' if model.get('byte_fallback') else ''}"
        raise ValueError(f"model.type is {found}, expected 'Unigram'")
    vocab, unk_id = model.get("vocab"), model.get("unk_id")
    if not isinstance(vocab, list) or not vocab:
        raise ValueError("model.vocab is missing or empty, expected a list of [piece, score]")
    for i, item in enumerate(vocab):
        if not (
            isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and item[0] and _is_score(item[1])
        ):
            raise ValueError(f"model.vocab[{i}] is {item!r:.60}, expected [piece, score]")
    if len({item[0] for item in vocab}) != len(vocab):
        raise ValueError("model.vocab has a piece twice")
    if not isinstance(unk_id, int) or isinstance(unk_id, bool) or not 0 <= unk_id < len(vocab):
        raise ValueError(f"model.unk_id is {unk_id!r}, expected an id below {len(vocab)}")
    return [(piece, float(score)) for piece, score in vocab], unk_id


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _normalizer(normalizer: dict[str, Any]) -> tuple[bytes, bool, bool]:
    """Rules, whether letters become small, whether accents are kept."""
    steps = normalizer.get("normalizers")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ValueError("normalizer.normalizers is missing, expected a list of objects")
    first = [{"type": "Replace", "pattern": {kind: old}, "content": new} for kind, old, new in REPLACEMENTS]
    rest = [str(step.get("type")) for step in steps[3:]]
    keep, lower, rules = "StripAccents" not in rest, "Lowercase" in rest, "Precompiled" in rest
    expected = ["NFKD", "StripAccents"] * (not keep) + ["Lowercase"] * lower + ["Precompiled"] * rules
    if steps[:3] != first or rest != expected:
        raise ValueError(
            f"normalizer has the steps {', '.join(str(step.get('type')) for step in steps)}; expected the replacement of "
            "``, '' and repeated spaces, then NFKD and StripAccents, Lowercase, Precompiled, each if wanted"
        )
    if not rules:
        return b"", lower, keep
    try:
        return base64.b64decode(steps[-1].get("precompiled_charsmap"), validate=True), lower, keep
    except (TypeError, binascii.Error):
        raise ValueError("normalizer's precompiled_charsmap is no base64") from None


def _prefix(pre_tokenizer: dict[str, Any]) -> bool:
    """Whether a text gets a space at its beginning; older files say it in another way."""
    scheme = pre_tokenizer.get("prepend_scheme")
    if scheme is None and isinstance(pre_tokenizer.get("add_prefix_space"), bool):
        scheme = "always" if pre_tokenizer["add_prefix_space"] else "never"
    found = pre_tokenizer.get("type"), pre_tokenizer.get("replacement"), pre_tokenizer.get("split", True)
    if found != ("Metaspace", SPACE, True) or scheme not in ("always", "never"):
        raise ValueError(
            f"pre_tokenizer is {json.dumps(pre_tokenizer)[:120]}, expected a Metaspace that adds a space or not"
        )
    return scheme == "always"


def _added(values: Any, pieces: Sequence[tuple[str, float]]) -> list[Added]:
    if not isinstance(values, list):
        raise ValueError(f"added_tokens is {values!r:.60}, expected a list")
    types = {field.name: {"id": int, "content": str}.get(field.name, bool) for field in dataclasses.fields(Added)}
    found = []
    for i, value in enumerate(values):
        value = _object(value, f"added_tokens[{i}]")
        wrong = [name for name, kind in types.items() if type(value.get(name)) is not kind]
        if wrong or set(value) - set(types):
            raise ValueError(
                f"added_tokens[{i}] is {value!r:.120}; expected exactly {', '.join(types)} with their types"
            )
        found.append(Added(**{name: value[name] for name in types}))
    found.sort(key=lambda token: token.id)
    beyond = len(pieces)
    for token in found:
        if 0 <= token.id < len(pieces):
            fits = pieces[token.id][0] == token.content
        else:
            fits, beyond = token.id == beyond, beyond + 1
        if not fits or not token.content:
            raise ValueError(
                f"added token {token.content!r} has id {token.id}, where the vocabulary has another piece or none"
            )
    if len({token.content for token in found}) != len(found):
        raise ValueError("added_tokens has a piece twice")
    return found
