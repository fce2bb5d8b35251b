"""What a user of transformers' tokenizer finds here under the same names, live against it."""

import random
import warnings

import pytest
from model_proto import CLS, MASK, SEP, THE, UNKNOWN, URL, model, piece
from tokenization.tokenizer_files import BASE, CLASSES, change_json

from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast, TokenizerError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers (pip install '.[torch]'), the other side"
    )

TEXTS = ["the cats sat on the mat", "the", "", "👩‍👩 the [MASK] sat", "the cat dog", "cats cats <url> the [SEP] cat"]
PLACES = ("token_to_sequence", "token_to_word", "token_to_chars", "char_to_token", "word_to_tokens", "word_to_chars",
          "char_to_word")  # fmt: skip


@pytest.fixture
def other(folder):
    return transformers.RemBertTokenizer.from_pretrained(str(folder))


@pytest.fixture
def fast(folder):
    return RemBertTokenizerFast.from_pretrained(folder)


def answer(method, *args):
    """What it gives, or that it gives nothing: transformers lets the errors of None through."""
    try:
        found = method(*args)
    except (IndexError, TypeError):
        return None
    return None if found is None else tuple(found) if isinstance(found, tuple) else found


@pytest.mark.parametrize("seed", range(4))
def test_places_of_tokens_words_and_characters(fast, other, seed):
    rng = random.Random(seed)
    compared = 0
    for _ in range(60):
        texts = [rng.choices(TEXTS, k=2) for _ in range(1 + (rng.random() < 0.5))]
        options = {"padding": True, "padding_side": rng.choice(["left", "right"])}
        if rng.random() < 0.5:
            options["add_special_tokens"] = False
        if rng.random() < 0.5:
            options |= {"max_length": rng.choice([7, 8, 12]), "truncation": True}
        if rng.random() < 0.3:
            options["is_split_into_words"] = True
            texts = [[text.split() for text in side] for side in texts]
        ours, theirs = fast(*texts, **options), other(*texts, **options)
        assert ours["input_ids"] == theirs["input_ids"] and ours.n_sequences == theirs.n_sequences
        for row in (0, 1):
            assert ours.words(row) == theirs.word_ids(row)
            for name in PLACES:
                more = [()] if name.startswith("token") else [(), *[(which,) for which in range(len(texts))]]
                for at in range(len(ours["input_ids"][row]) if name.startswith("token") else 24):
                    for args in more:
                        found = answer(getattr(ours, name), row, at, *args)
                        assert found == answer(getattr(theirs, name), row, at, *args), (
                            name,
                            texts,
                            options,
                            row,
                            at,
                            args,
                        )
                        compared += found is not None
            assert [answer(ours.char_to_token, at) for at in range(9)] == [
                answer(theirs.char_to_token, at) for at in range(9)
            ]
    assert compared > 5000


def test_pairs_as_cross_encoders_give_them(fast, other):
    pairs = [("the cat", "sat"), ("", "the"), ("mat", "")]
    assert dict(fast(pairs, padding=True)) == dict(other(pairs, padding=True))
    assert dict(fast([list(pair) for pair in pairs])) == dict(other([list(pair) for pair in pairs]))
    words = [(["the", "cats"], ["sat"]), (["on"], ["the", "mat"])]
    options = {"is_split_into_words": True, "return_offsets_mapping": True}
    assert dict(fast(words, **options)) == dict(other(words, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": True, "max_length": 4},
        {"padding": True, "max_length": 40},
        {"truncation": True},
        {"padding": "max_length"},
        {"padding": "max_length", "truncation": "only_first"},
        {"padding": True, "truncation": True},
        {"verbose": False},
        {"return_tensors": "pt", "padding": True},
        {"return_attention_mask": None, "return_token_type_ids": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("length", [None, 6])
@pytest.mark.filterwarnings("ignore:`max_length` is ignored")
def test_idioms(options, length, folder):
    ours, theirs = (
        kind.from_pretrained(str(folder), **({"model_max_length": length} if length else {}))
        for kind in (RemBertTokenizerFast, transformers.RemBertTokenizer)
    )
    found, expected = ours(TEXTS, **options), theirs(TEXTS, **options)
    assert list(found) == list(expected)
    for name in found:
        assert type(found[name]) is type(expected[name])
        assert (
            (found[name] == expected[name])
            if isinstance(found[name], list)
            else bool((found[name] == expected[name]).all())
        )


def test_special_pieces_by_keyword(tmp_path):
    names = {"pad_token": "<p>", "unk_token": "<unk>", "cls_token": "<c>", "sep_token": "<e>", "mask_token": "<m>"}
    pieces = [piece("<p>", 0.0, 3), piece("<x>", 0.0, 3), piece("<unk>", 0.0, UNKNOWN)]
    pieces += [piece(name, 0.0, 3) for name in ("<c>", "<e>", "<m>")]
    (tmp_path / "sentencepiece.model").write_bytes(model([*pieces, piece("▁the")]))
    for kind in CLASSES:
        given = {
            **names,
            "mask_token": transformers.AddedToken("<m>", lstrip=True),
            "bos_token": "<c>",
            "eos_token": None,
        }
        tokenizer = kind.from_pretrained(tmp_path, **given)
        assert {name: getattr(tokenizer, name) for name in names} == names
        assert tokenizer.encode("the <m>") == [3, 6, 5, 4]
        tokenizer.save_pretrained(tmp_path / "saved")
        other = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "saved"))
        assert other("the <m>")["input_ids"] == [3, 6, 5, 4]
        assert kind.from_pretrained(tmp_path / "saved", pad_token="<x>").cls_token == "<c>", "the others stay"
        with pytest.raises(TokenizerError, match=r"bos_token='<x>': an open tokenizer has '<c>'; open it again"):
            kind.from_pretrained(tmp_path, **{**names, "bos_token": "<x>"})
        with pytest.raises(TokenizerError, match=r"the piece <y> is missing"):
            kind.from_pretrained(tmp_path, **{**names, "pad_token": "<y>"})


def test_what_is_looked_for_before_a_text_is_cut(folder, other):
    fields = ("content", "single_word", "lstrip", "rstrip", "special", "normalized")
    for kind in CLASSES:
        ours = kind.from_pretrained(folder)
        assert ours.get_added_vocab() == other.get_added_vocab() and ours.get_added_vocab()["<url>"] == URL
        assert list(ours.added_tokens_decoder) == list(other.added_tokens_decoder)
        for i, token in ours.added_tokens_decoder.items():
            theirs = other.added_tokens_decoder[i]
            assert all(getattr(token, field) == getattr(theirs, field) for field in fields), token


def test_pieces_to_text(folder, other):
    for kind in CLASSES:
        ours = kind.from_pretrained(folder)
        for text in TEXTS:
            tokens = ours.convert_ids_to_tokens(ours.encode(text))
            for part in (tokens, tokens[1:-1], tokens[2:]):
                assert ours.convert_tokens_to_string(part) == other.convert_tokens_to_string(part)


def test_attributes_of_a_folder(folder, other):
    for kind in CLASSES:
        ours = kind.from_pretrained(str(folder), model_max_length=20)
        assert (ours.name_or_path, ours.pad_token_type_id) == (other.name_or_path, other.pad_token_type_id)
        other.model_max_length = 20
        assert ours.max_len_single_sentence == 18 and ours.max_len_sentences_pair == 17
        assert other.max_len_single_sentence == 18 and other.max_len_sentences_pair == 17


def test_the_length_of_the_model_beside_is_the_tokenizers(folder, caplog):
    (folder / "config.json").write_text('{"model_type": "rembert", "vocab_size": 16, "max_position_embeddings": 4}')
    for kind in CLASSES:
        tokenizer = kind.from_pretrained(folder)
        assert tokenizer.model_max_length == 4 and len(tokenizer("the cats sat", truncation=True)["input_ids"]) == 4
        assert kind.from_pretrained(folder, model_max_length=9).model_max_length == 9
    change_json(folder / "tokenizer_config.json", lambda values: values.update(model_max_length=6))
    assert RemBertTokenizer.from_pretrained(folder).model_max_length == 6


def test_an_old_folder_that_transformers_5_reads_wrongly_is_warned_of(tmp_path, caplog):
    """There the unknown piece is 2 by the class, here it is 1 and 2 is [CLS], as in vocabularies that we used to train."""
    pieces = [BASE[0], piece("[UNK]", 0.0, UNKNOWN), *BASE[3:], piece("▁"), piece("▁the")]
    (tmp_path / "sentencepiece.model").write_bytes(model(pieces))
    RemBertTokenizer(tmp_path).save_pretrained(tmp_path)
    unknown = [2, 5, 1, 3]
    assert transformers.AutoTokenizer.from_pretrained(str(tmp_path))("😊")["input_ids"] == unknown
    with caplog.at_level("WARNING", "rembert_jax"):
        assert RemBertTokenizer.from_pretrained(tmp_path).encode("😊") == unknown
    assert not caplog.records
    change_json(tmp_path / "tokenizer_config.json", lambda values: values.update(tokenizer_class="RemBertTokenizer"))
    assert transformers.AutoTokenizer.from_pretrained(str(tmp_path))("😊")["input_ids"] == [2, 5, 2, 3], "it still does"
    for kind in CLASSES:
        caplog.clear()
        with caplog.at_level("WARNING", "rembert_jax"):
            tokenizer = kind.from_pretrained(tmp_path)
        assert "unknown piece has id 1, but transformers 5 takes 2 for it" in caplog.text and len(caplog.records) == 1
        assert tokenizer.encode("😊") == unknown
    tokenizer.save_pretrained(tmp_path)
    assert transformers.AutoTokenizer.from_pretrained(str(tmp_path))("😊")["input_ids"] == unknown


def test_a_folder_that_transformers_5_wrote_gives_types_here_and_says_so(other, tmp_path, caplog):
    other.init_kwargs.pop("model_input_names", None)
    other.save_pretrained(tmp_path)
    change_json(tmp_path / "tokenizer_config.json", lambda values: values.pop("model_input_names", None))
    assert "token_type_ids" not in transformers.RemBertTokenizer.from_pretrained(str(tmp_path))("the", "cat")
    with caplog.at_level("WARNING", "rembert_jax"):
        assert "token_type_ids" in RemBertTokenizerFast.from_pretrained(tmp_path)("the", "cat")
    assert "a model of pairs that was trained there saw none" in caplog.text and len(caplog.records) == 1
    as_there = RemBertTokenizerFast.from_pretrained(tmp_path, model_input_names=["input_ids", "attention_mask"])
    assert dict(as_there("the", "cat")) == dict(
        transformers.RemBertTokenizer.from_pretrained(str(tmp_path))("the", "cat")
    )


def test_by_hand(fast):
    batch = fast("the [MASK]", "the")
    assert batch["input_ids"] == [CLS, THE, MASK, SEP, THE, SEP]
    assert batch.char_to_token(1) == 1 and batch.char_to_token(0, 1, 1) == 4 and batch.token_to_chars(2) == (3, 10)
    assert (
        batch.word_to_tokens(0) == (1, 2)
        and batch.word_to_tokens(0, 0, 1) == (4, 5)
        and batch.token_to_word(0, 0) is None
    )
    assert (
        batch.char_to_token(99) is None and batch.word_to_chars(0, 0, 1) == (0, 3) and batch.token_to_sequence(4) == 1
    )
