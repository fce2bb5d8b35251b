"""What calls give: template, truncation, windows, padding, options; every value worked out by hand."""

import logging
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from model_proto import CAT, CLS, MASK, MAT, ON, PAD, QUOTE, SAT, SEP, SPACE, THE, UNK, URL, S, small_model

from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast, TokenizerError

CLASSES = [RemBertTokenizer, RemBertTokenizerFast]
LINE = "the cats sat on the mat"
IDS = [THE, CAT, S, SAT, ON, THE, MAT]
OFFSETS = [(0, 3), (3, 7), (7, 8), (8, 12), (12, 15), (15, 19), (19, 23)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "sentencepiece.model"
    path.write_bytes(small_model())
    return path


@pytest.fixture(params=CLASSES, scope="module")
def tokenizer(request, path):
    return request.param(path)


@pytest.fixture(scope="module")
def fast(path):
    return RemBertTokenizerFast(path)


def test_a_text_stands_between_cls_and_sep(tokenizer):
    result = tokenizer(LINE)
    assert result["input_ids"] == result.input_ids == [CLS, *IDS, SEP]
    assert result["token_type_ids"] == [0] * 9 and result["attention_mask"] == [1] * 9
    assert set(result) == {"input_ids", "token_type_ids", "attention_mask"}
    assert tokenizer.encode(LINE) == [CLS, *IDS, SEP]
    assert tokenizer.encode(LINE, add_special_tokens=False) == IDS


def test_none_asks_for_the_usual_fields(tokenizer):
    assert dict(tokenizer("the", return_attention_mask=None, return_token_type_ids=None)) == dict(tokenizer("the"))


def test_the_second_text_has_type_one(tokenizer):
    result = tokenizer("the cat", "the mat sat", return_special_tokens_mask=True)
    assert result["input_ids"] == [CLS, THE, CAT, SEP, THE, MAT, SAT, SEP]
    assert result["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert result["special_tokens_mask"] == [1, 0, 0, 1, 0, 0, 0, 1]
    assert result.sequence_ids() == [None, 0, 0, None, 1, 1, 1, None]
    assert tokenizer.encode("the cat", "the mat sat", add_special_tokens=False) == [THE, CAT, THE, MAT, SAT]


def test_an_empty_second_text_is_a_second_text(tokenizer):
    one = tokenizer("the", "")
    many = tokenizer(["the"], [""])
    assert one["input_ids"] == many["input_ids"][0] == [CLS, THE, SEP, SEP]
    assert one["token_type_ids"] == many["token_type_ids"][0] == [0, 0, 0, 1]


def test_the_template_by_itself(tokenizer):
    assert tokenizer.build_inputs_with_special_tokens([THE, CAT]) == [CLS, THE, CAT, SEP]
    assert tokenizer.build_inputs_with_special_tokens([THE], [CAT, SAT]) == [CLS, THE, SEP, CAT, SAT, SEP]
    assert tokenizer.create_token_type_ids_from_sequences([THE, CAT]) == [0, 0, 0, 0]
    assert tokenizer.create_token_type_ids_from_sequences([THE], [CAT, SAT]) == [0, 0, 0, 1, 1, 1]
    assert tokenizer.get_special_tokens_mask([THE], [CAT, SAT]) == [1, 0, 1, 0, 0, 1]
    assert tokenizer.num_special_tokens_to_add() == 2 and tokenizer.num_special_tokens_to_add(pair=True) == 3


def test_every_special_piece_of_built_input_counts(tokenizer):
    built = [CLS, THE, MASK, UNK, URL, SEP, PAD]
    assert tokenizer.get_special_tokens_mask(built, already_has_special_tokens=True) == [1, 0, 1, 1, 0, 1, 1]
    with pytest.raises(TokenizerError, match="one list"):
        tokenizer.get_special_tokens_mask(built, [THE], already_has_special_tokens=True)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("the [MASK] sat", [THE, MASK, SAT]),
        ("the \t\u00a0\u3000[MASK] sat", [THE, MASK, SAT]),
        ("the[MASK]", [THE, MASK]),
        ("[MASK][MASK] sat", [MASK, MASK, SAT]),
        ("[CLS]<s>[SEP]<pad><unk>[MASK]", [CLS, 1, SEP, PAD, UNK, MASK]),
        ("the <url>", [THE, SPACE, URL]),
    ],
)
def test_special_pieces_written_in_a_text(tokenizer, text, ids):
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    assert tokenizer([text], add_special_tokens=False)["input_ids"] == [ids]


@pytest.mark.parametrize("text", ["the [MASK] sat", "[CLS]", "<pad>", "<unk> the", "the [SEP]"])
def test_their_names_are_plain_text_if_asked(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert set(ids) <= {THE, S, SAT, SPACE, UNK}, "letters that the vocabulary lacks are unknown"
    assert UNK in ids and tokenizer(text, split_special_tokens=True)["input_ids"] == [CLS, *ids, SEP]


def test_user_defined_pieces_stay_whole_if_asked_too(tokenizer):
    assert tokenizer.encode("the <url>", add_special_tokens=False, split_special_tokens=True) == [THE, SPACE, URL]


@pytest.mark.parametrize(
    ("strategy", "length", "first", "second"),
    [
        (True, 13, 7, 3),
        (True, 12, 6, 3),
        (True, 9, 3, 3),
        (True, 8, 3, 2),
        ("longest_first", 4, 1, 0),
        ("longest_first", 3, 0, 0),
        ("only_first", 7, 1, 3),
        ("only_second", 11, 7, 1),
        (None, 12, 6, 3),
        (False, 4, 7, 3),
        ("do_not_truncate", None, 7, 3),
    ],
)
def test_truncation_of_a_pair(tokenizer, strategy, length, first, second):
    result = tokenizer(LINE, "the mat sat", truncation=strategy, max_length=length)
    assert result["input_ids"] == [CLS, *IDS[:first], SEP, *[THE, MAT, SAT][:second], SEP]
    assert result["token_type_ids"] == [0] * (first + 2) + [1] * (second + 1)


def test_truncation_swaps_with_the_longer_text(tokenizer):
    result = tokenizer("the mat sat", LINE, truncation=True, max_length=8)
    assert result["input_ids"] == [CLS, THE, MAT, SEP, *IDS[:3], SEP]


def test_windows_overlap_by_the_stride_and_reach_the_end(tokenizer):
    result = tokenizer([LINE, "the"], max_length=5, truncation=True, stride=1, return_overflowing_tokens=True)
    assert result["input_ids"] == [[CLS, *IDS[:3], SEP], [CLS, *IDS[2:5], SEP], [CLS, *IDS[4:7], SEP], [CLS, THE, SEP]]
    assert result["overflow_to_sample_mapping"] == [0, 0, 0, 1]
    assert [len(row) for row in result["attention_mask"]] == [5, 5, 5, 3]


def test_windows_from_the_left(path):
    for kind in CLASSES:
        tokenizer = kind.from_pretrained(path, truncation_side="left")
        assert tokenizer(LINE, max_length=5)["input_ids"] == [CLS, *IDS[-3:], SEP]
        result = tokenizer(LINE, max_length=5, return_overflowing_tokens=True)
        assert result["input_ids"] == [[CLS, *IDS[4:], SEP], [CLS, *IDS[1:4], SEP], [CLS, IDS[0], SEP]]


def test_only_second_keeps_the_question_in_every_window(tokenizer):
    options = {"truncation": "only_second", "max_length": 9, "stride": 2, "return_overflowing_tokens": True}
    result = tokenizer("the cat", LINE, **options)
    question = [CLS, THE, CAT, SEP]
    spans = [(0, 4), (2, 6), (4, 7)]
    assert result["input_ids"] == [[*question, *IDS[a:b], SEP] for a, b in spans]
    assert result["token_type_ids"] == [[0] * 4 + [1] * (b - a + 1) for a, b in spans]


def test_windows_of_both_texts_meet(tokenizer):
    result = tokenizer("the cat sat", "on the mat", max_length=7, truncation=True, return_overflowing_tokens=True)
    rows = [([THE, CAT], [ON, THE]), ([SAT], [ON, THE]), ([SAT], [MAT]), ([THE, CAT], [MAT])]
    assert result["input_ids"] == [[CLS, *one, SEP, *two, SEP] for one, two in rows]
    assert result["overflow_to_sample_mapping"] == [0, 0, 0, 0]


def test_padding_to_the_longest(tokenizer):
    result = tokenizer(["the", "the cat sat"], padding=True, return_special_tokens_mask=True, return_length=True)
    assert result["input_ids"] == [[CLS, THE, SEP, PAD, PAD], [CLS, THE, CAT, SAT, SEP]]
    assert result["attention_mask"] == [[1, 1, 1, 0, 0], [1] * 5]
    assert result["special_tokens_mask"] == [[1, 0, 1, 1, 1], [1, 0, 0, 0, 1]]
    assert result["length"] == [5, 5]
    assert result.sequence_ids(0) == [None, 0, None, None, None]


def test_padding_on_the_left_to_a_multiple(tokenizer):
    result = tokenizer("the", "cat", padding=True, pad_to_multiple_of=4, padding_side="left")
    assert result["input_ids"] == [PAD, PAD, PAD, CLS, THE, SEP, CAT, SEP]
    assert result["token_type_ids"] == [0, 0, 0, 0, 0, 0, 1, 1]
    assert result["attention_mask"] == [0, 0, 0, 1, 1, 1, 1, 1]


def test_padding_to_a_length_leaves_longer_rows(tokenizer):
    result = tokenizer(["the", LINE], padding="max_length", max_length=6)
    assert [len(row) for row in result["input_ids"]] == [6, 9]
    cut = tokenizer(["the", LINE], padding="max_length", max_length=6, truncation=True)
    assert cut["input_ids"] == [[CLS, THE, SEP, PAD, PAD, PAD], [CLS, *IDS[:4], SEP]]


def test_length_of_the_model_is_used_where_none_is_given(path):
    for kind in CLASSES:
        tokenizer = kind.from_pretrained(path, model_max_length=4, padding_side="left")
        assert tokenizer(LINE, truncation=True)["input_ids"] == [CLS, THE, CAT, SEP]
        assert tokenizer("the", padding="max_length")["input_ids"] == [PAD, CLS, THE, SEP]
        assert tokenizer(LINE)["input_ids"] == [CLS, *IDS, SEP], "only where asked for"


@pytest.mark.parametrize(
    ("options", "ids", "warning"),
    [
        ({"truncation": True}, [CLS, *IDS, SEP], "so that nothing is cut"),
        ({"padding": "max_length"}, [CLS, *IDS, SEP], "so that nothing is cut or padded"),
        (
            {"padding": True, "truncation": True, "pad_to_multiple_of": 12},
            [CLS, *IDS, SEP, *[PAD] * 3],
            "nothing is cut",
        ),
        ({"padding": True, "max_length": 5}, [CLS, *IDS, SEP], "max_length=5 has no effect with padding=True"),
    ],
)
def test_options_without_effect_are_warned_of(tokenizer, options, ids, warning, caplog):
    with caplog.at_level(logging.WARNING, "rembert_jax"):
        assert tokenizer(LINE, **options)["input_ids"] == ids
        assert tokenizer(LINE, verbose=False, **options)["input_ids"] == ids
    assert len(caplog.records) == 1 and warning in caplog.text


def test_a_text_longer_than_the_model_is_warned_of_once(path, caplog):
    for kind in CLASSES:
        tokenizer = kind.from_pretrained(path, model_max_length=8)
        quiet = [("the", {}), (LINE, {"verbose": False}), (LINE, {"truncation": True}), (LINE, {"max_length": 20})]
        caplog.clear()
        with caplog.at_level(logging.WARNING, "rembert_jax"):
            for text, options in quiet:
                tokenizer(text, **options)
            assert not caplog.records
            for _ in range(2):
                tokenizer(["the", LINE])
        assert len(caplog.records) == 1 and "a text of 9 tokens is longer than the 8 of the model" in caplog.text


def test_pairs_come_as_two_lists_or_as_a_list_of_pairs(tokenizer):
    first, second = ["the", "the cat"], ["cat", ""]
    expected = dict(tokenizer(first, second))
    for pairs in (list(zip(first, second, strict=True)), [list(pair) for pair in zip(first, second, strict=True)]):
        assert dict(tokenizer(pairs)) == expected
    words = [(["the", "cats"], ["sat"]), ([], ["the"])]
    assert dict(tokenizer(words, is_split_into_words=True)) == dict(
        tokenizer([["the", "cats"], []], [["sat"], ["the"]], is_split_into_words=True)
    )
    assert tokenizer([("the", "cat")])["input_ids"] == [[CLS, THE, SEP, CAT, SEP]]


def test_what_a_call_gives_is_what_the_tokenizer_says(path, tmp_path):
    for kind in CLASSES:
        tokenizer = kind.from_pretrained(path)
        assert list(tokenizer("the")) == ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        assert list(tokenizer("the")) == ["input_ids", "attention_mask"]
        assert "token_type_ids" in tokenizer("the", return_token_type_ids=True)
        assert list(tokenizer("the", return_attention_mask=False)) == ["input_ids"]
        tokenizer.save_pretrained(tmp_path / kind.__name__)
        again = kind.from_pretrained(tmp_path / kind.__name__)
        assert (
            again.model_input_names == ["input_ids", "attention_mask"] and list(again("the")) == again.model_input_names
        )
        assert list(kind.from_pretrained(path, model_input_names=["input_ids"])("the")) == ["input_ids"]


def test_arrays_of_other_kinds(tokenizer):
    by_jax = tokenizer(["the", LINE], padding=True, return_tensors="jax")
    assert {type(value) for value in by_jax.values()} == {type(jnp.zeros(1))} and by_jax["input_ids"].dtype == jnp.int32
    torch = pytest.importorskip("torch", reason="needs PyTorch (pip install '.[torch]')")
    tensors = tokenizer(["the", LINE], padding=True, return_tensors="pt")
    assert {value.dtype for value in tensors.values()} == {torch.int64}
    assert tensors["input_ids"].tolist() == by_jax["input_ids"].tolist()
    moved = tensors.to("meta")
    assert moved["input_ids"].device.type == "meta" and moved.sequence_ids(0) == tensors.sequence_ids(0)


def test_arrays_of_what_is_not_installed(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TokenizerError, match=r"return_tensors='pt': it is not installed; install it, or take 'np'"):
        tokenizer("the", return_tensors="pt")


def test_arrays_have_a_row_for_each_text(tokenizer):
    one = tokenizer("the cat", return_tensors="np")
    many = tokenizer(["the", LINE], padding=True, return_tensors="np")
    assert one["input_ids"].shape == (1, 4) and many["input_ids"].shape == (2, 9)
    assert {value.dtype for value in many.values()} == {np.dtype(np.int32)}
    with pytest.raises(TokenizerError, match=r"input_ids: rows of different lengths.*padding=True"):
        tokenizer(["the", LINE], return_tensors="np")


def test_words_are_texts_of_their_own(tokenizer):
    words = ["the", "cats", "", "sat"]
    assert tokenizer(words, is_split_into_words=True)["input_ids"] == [CLS, THE, CAT, S, SAT, SEP]
    pair = tokenizer([["the"], []], [["cat"], ["sat", "on"]], is_split_into_words=True)
    assert pair["input_ids"] == [[CLS, THE, SEP, CAT, SEP], [CLS, SEP, SAT, ON, SEP]]


def test_word_ids_and_offsets(fast):
    result = fast(["the", "cats", "", "sat"], is_split_into_words=True, return_offsets_mapping=True)
    assert result.word_ids() == [None, 0, 1, 1, 3, None]
    assert result["offset_mapping"] == [(0, 0), (0, 3), (0, 3), (3, 4), (0, 3), (0, 0)]
    assert result.tokens() == ["[CLS]", "▁the", "▁cat", "s", "▁sat", "[SEP]"]
    running = fast(LINE, return_offsets_mapping=True)
    assert running["offset_mapping"] == [(0, 0), *OFFSETS, (0, 0)]
    assert running.word_ids() == [None, 0, 1, 1, 2, 3, 4, 5, None]


def test_offsets_count_characters_and_follow_windows_and_padding(fast):
    result = fast(
        "👩‍👩 the [MASK] sat", max_length=5, stride=1, padding="max_length", truncation=True,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    assert result["input_ids"] == [[CLS, SPACE, UNK, THE, SEP], [CLS, THE, MASK, SAT, SEP]]
    assert result["offset_mapping"][0] == [(0, 0), (0, 1), (0, 3), (3, 7), (0, 0)]
    assert result["offset_mapping"][1] == [(0, 0), (3, 7), (7, 14), (14, 18), (0, 0)]
    assert result.word_ids(1) == [None, 1, 2, 3, None]


def test_sentencepiece_has_no_offsets(path):
    tokenizer = RemBertTokenizer(path)
    with pytest.raises(TokenizerError, match=r"return_offsets_mapping.*use RemBertTokenizerFast"):
        tokenizer("the", return_offsets_mapping=True)
    for method in ("word_ids", "words", "tokens", "token_to_chars", "token_to_word", "char_to_token", "word_to_tokens"):
        with pytest.raises(TokenizerError, match=r".*\(\): this tokenizer does not tell; use RemBertTokenizerFast"):
            getattr(tokenizer("the"), method)(0)
    assert tokenizer("the", "cat").token_to_sequence(3) == 1 and not tokenizer("the").is_fast


def test_text_and_pieces_of_ids(tokenizer):
    ids = tokenizer.encode("the cats [MASK] sat")
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "▁the", "▁cat", "s", "[MASK]", "▁sat", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=True) == ["▁the", "▁cat", "s", "▁sat"]
    assert tokenizer.convert_ids_to_tokens(CAT) == "▁cat"
    assert tokenizer.convert_tokens_to_ids(["▁cat", "[CLS]", "dog"]) == [CAT, CLS, UNK]
    assert tokenizer.convert_tokens_to_ids("▁cat") == CAT
    assert tokenizer.decode(ids) == "[CLS] the cats[MASK] sat[SEP]"
    assert tokenizer.decode(np.array(ids, np.int32), skip_special_tokens=True) == "the cats sat"
    assert tokenizer.decode(CAT) == "cat" and tokenizer.decode([]) == ""
    assert tokenizer.batch_decode(np.array([[THE, CAT], [CAT, PAD]]), skip_special_tokens=True) == ["the cat", "cat"]


@pytest.mark.parametrize("ids", [[16], [-1], [THE, 250_300]])
def test_ids_of_another_vocabulary_are_refused(tokenizer, ids):
    with pytest.raises(TokenizerError, match=rf"id {ids[-1]}: the vocabulary has ids 0 … 15"):
        tokenizer.decode(ids)


def test_rows_are_for_batch_decode(tokenizer):
    for rows in ([[THE], [CAT]], np.array([[THE], [CAT]])):
        with pytest.raises(TokenizerError, match="use batch_decode"):
            tokenizer.decode(rows)


def test_vocabulary_facts(tokenizer):
    assert (tokenizer.vocab_size, len(tokenizer), tokenizer.space_token_id) == (16, 16, SPACE)
    assert (tokenizer.pad_token, tokenizer.unk_token, tokenizer.mask_token) == ("<pad>", "<unk>", "[MASK]")
    assert tokenizer.special_ids().tolist() == [0, 1, 2, 3, 4, 5]
    assert np.flatnonzero(tokenizer.starts_word()).tolist() == [SPACE, THE, CAT, SAT, QUOTE, ON, MAT, 14, URL]


def test_no_texts_are_no_rows(tokenizer):
    assert dict(tokenizer([], padding=True)) == {"input_ids": [], "token_type_ids": [], "attention_mask": []}


def test_copies_in_other_processes_agree(tokenizer):
    tokenizer.encode("the", split_special_tokens=True)  # Leaves something that is made when needed.
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode(LINE) == [CLS, *IDS, SEP] and copy.sha256 == tokenizer.sha256
    assert copy.encode("the [MASK]", split_special_tokens=True) == tokenizer.encode(
        "the [MASK]", split_special_tokens=True
    )
    result = pickle.loads(pickle.dumps(tokenizer(LINE)))
    assert result["input_ids"] == [CLS, *IDS, SEP] and result.sequence_ids() == [None, *[0] * 7, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_tensors": "tf"}, r"return_tensors='tf': expected one of None, 'np', 'jax', 'pt'"),
        ({"padding": "longset"}, r"padding='longset': expected one of .*'longest', 'max_length'"),
        ({"truncation": 1}, r"truncation=1: expected one of"),
        ({"truncation": "first"}, r"truncation='first'.*'only_first'"),
        ({"padding_side": "top"}, r"padding_side='top': expected one of None, 'right', 'left'"),
        ({"max_length": 0}, r"max_length=0: expected a whole number of at least 1"),
        ({"stride": None}, r"stride=None: expected a whole number of at least 0"),
        ({"return_length": 1}, r"return_length=1: expected one of False, True"),
        ({"add_special_tokens": None}, r"add_special_tokens=None: expected one of"),
        ({"max_length": 2.5}, r"max_length=2\.5: expected a whole number"),
        ({"max_length": 5, "stride": -1}, r"stride=-1"),
        ({"max_lenght": 5}, r"unknown option max_lenght; expected some of .*max_length"),
        ({"max_length": 1}, r"max_length=1 leaves no place for text"),
        ({"max_length": 2, "return_overflowing_tokens": True}, r"max_length=2 leaves no place"),
        ({"max_length": 5, "stride": 3, "return_overflowing_tokens": True}, r"stride=3: a window of this text has 3"),
        ({"max_length": 6, "truncation": True, "padding": True, "pad_to_multiple_of": 4}, r"no multiple of pad_to_mul"),
        ({"max_length": 5, "truncation": "only_second"}, r"there is no second text; use 'only_first'"),
    ],
)
def test_senseless_options_are_refused(tokenizer, options, message):
    with pytest.raises(TokenizerError, match=message):
        tokenizer(LINE, **options)


def test_a_text_that_would_vanish_is_refused(tokenizer):
    with pytest.raises(TokenizerError, match=r"'only_second': 4 pieces are too many, but that text has only 3"):
        tokenizer(LINE, "the mat sat", truncation="only_second", max_length=9)
    with pytest.raises(TokenizerError, match="no place for one of the two texts"):
        tokenizer(LINE, "the mat sat", truncation=True, max_length=4, return_overflowing_tokens=True)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((None,), {}, r"text 0 is a NoneType, expected a string"),
        ((["the", b"cat"],), {}, r"text 1 is a bytes, expected a string"),
        (
            ([("the",)],),
            {},
            r"pair 0 is \('the',\); expected two texts each, as in \[\(a, b\), …\], or is_split_into_words",
        ),
        (([("the", "cat"), ("sat", None)],), {}, r"pair 1 is \('sat', None\); expected two texts each"),
        (([("the", "cat", "sat")],), {}, r"pair 0 is \('the', 'cat', 'sat'\); expected two"),
        (([("the", "cat"), "sat"],), {}, r"text 1 is a str among pairs; expected two texts"),
        (([("the", 3)],), {}, r"text 0 is a int, expected a string"),
        (([("the", "cat")], ["sat"]), {}, r"text 0 is a tuple, expected a string"),
        (([(["the"], None)],), {"is_split_into_words": True}, r"pair 0 is .*expected two lists of words each"),
        ((["the", "cat"], ["sat"]), {}, r"2 text\(s\) but 1 second"),
        ((["the", "cat"], "sat"), {}, r"2 text\(s\) but 1 second"),
        (("the", ["sat"]), {}, r"text 0 is a list"),
        (("the cat",), {"is_split_into_words": True}, r"text 0 is 'the cat', expected a list of strings"),
        (([["the", 3]],), {"is_split_into_words": True}, r"text 0 is \['the', 3\]"),
    ],
)
def test_what_is_no_text_is_refused(tokenizer, args, options, message):
    with pytest.raises(TokenizerError, match=message):
        tokenizer(*args, **options)


def test_half_a_character_is_named(tokenizer):
    message = r"text {}: character 4 is '\\ud83d', half of a surrogate pair.*errors='replace'"
    with pytest.raises(TokenizerError, match=message.format(1)):
        tokenizer(["the", "the \ud83d"])
    with pytest.raises(TokenizerError, match=message.format(0)):
        tokenizer.encode("the \ud83d", add_special_tokens=False, split_special_tokens=True)
    with pytest.raises(TokenizerError, match="half of a surrogate pair"):
        tokenizer([["the", "the \ud83d"]], is_split_into_words=True)


def test_the_path_of_the_data_pipeline_refuses_what_is_no_text(tokenizer):
    for wrong in (None, 3, ["the"]):
        with pytest.raises(TokenizerError, match=f"text 0 is a {type(wrong).__name__}"):
            tokenizer.encode(wrong, add_special_tokens=False, split_special_tokens=True)
