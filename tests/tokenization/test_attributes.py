"""What a tokenizer says and takes by attribute, live against transformers' tokenizer of the same files."""

import pickle

import pytest
from model_proto import CAT, CLS, MASK, PAD, SAT, SEP, THE, UNK, S, model, piece
from tokenization.tokenizer_files import BASE, CLASSES

from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast, TokenizerError

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
SHARED = [
    "all_special_ids", "all_special_tokens", "special_tokens_map", "model_max_length", "padding_side", "truncation_side",
    "model_input_names", "vocab_size", "vocab", "clean_up_tokenization_spaces", "do_lower_case", "keep_accents",
    "add_prefix_space", *(f"{role}_token" for role in ROLES), *(f"{role}_token_id" for role in ROLES),
]  # fmt: skip


@pytest.fixture
def other(folder):
    transformers = pytest.importorskip("transformers", reason="needs transformers, with which it is compared")
    return transformers.RemBertTokenizer.from_pretrained(str(folder))


@pytest.fixture(params=CLASSES)
def tokenizer(request, folder):
    return request.param.from_pretrained(folder)


@pytest.mark.parametrize("name", SHARED)
def test_attributes_are_those_of_transformers(name, tokenizer, other):
    ours, theirs = getattr(tokenizer, name), getattr(other, name)
    assert ours == theirs and type(ours) is type(theirs)


def test_vocabulary_and_kind_are_those_of_transformers(folder, other):
    for kind in CLASSES:
        tokenizer = kind.from_pretrained(folder)
        assert (len(tokenizer), tokenizer.get_vocab()) == (len(other), other.get_vocab())
    assert RemBertTokenizerFast.is_fast is other.is_fast is True and RemBertTokenizer.is_fast is False


def test_values_by_hand(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("[CLS]", "[SEP]", "<pad>")
    assert tokenizer.all_special_ids == [CLS, SEP, UNK, PAD, MASK]
    assert tokenizer.get_vocab()["▁the"] == tokenizer.vocab["▁the"] == THE and len(tokenizer.vocab) == 16
    assert tokenizer.model_max_length == int(1e30) and tokenizer.settings.model_max_length is None


@pytest.mark.parametrize(
    "args",
    [("the cats [MASK] sat",), ("the cat", "sat"), ("the dog",), ("",)],
)
def test_tokenize_gives_pieces(args, folder, other):
    for special in (False, True):
        fast = RemBertTokenizerFast(folder).tokenize(*args, add_special_tokens=special)
        assert fast == other.tokenize(*args, add_special_tokens=special)


def test_tokenize_of_sentencepiece_gives_pieces_of_the_vocabulary(folder):
    slow = RemBertTokenizer(folder)
    pieces = slow.tokenize("the cats [MASK] sat")
    assert pieces == ["▁the", "▁cat", "s", "[MASK]", "▁sat"]
    assert slow.convert_tokens_to_ids(pieces) == [THE, CAT, S, MASK, SAT]
    assert slow.tokenize("the dog") == ["▁the", "▁", "<unk>"]
    assert slow.tokenize("the", "cat", add_special_tokens=True) == ["[CLS]", "▁the", "[SEP]", "▁cat", "[SEP]"]


def test_sides_and_length_can_be_assigned(tokenizer, tmp_path):
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.model_max_length = 4
    assert tokenizer("the cats sat", truncation=True)["input_ids"] == [CLS, S, SAT, SEP]
    assert tokenizer("the", padding="max_length")["input_ids"] == [PAD, CLS, THE, SEP]
    assert (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length) == ("left", "left", 4)
    tokenizer.save_pretrained(tmp_path / "out")
    for copy in (pickle.loads(pickle.dumps(tokenizer)), type(tokenizer).from_pretrained(tmp_path / "out")):
        assert copy("the", padding="max_length")["input_ids"] == [PAD, CLS, THE, SEP]
    for none in (None, 10**30):
        tokenizer.model_max_length = none
        assert tokenizer.settings.model_max_length is None


def test_assigned_settings_work_as_in_transformers(tokenizer, other):
    for each in (tokenizer, other):
        each.padding_side, each.truncation_side, each.model_max_length = "left", "left", 5
    texts = ["the cats sat on the mat", "the"]
    ours, theirs = (each(texts, truncation=True, padding=True) for each in (tokenizer, other))
    assert ours["input_ids"] == theirs["input_ids"] and ours["attention_mask"] == theirs["attention_mask"]


@pytest.mark.parametrize(
    ("name", "value", "message_"),
    [
        ("padding_side", "middle", r"padding_side='middle'; expected right or left"),
        ("model_max_length", "128", r"model_max_length='128'; expected a whole number"),
        ("clean_up_tokenization_spaces", 1, r"clean_up_tokenization_spaces=1; expected true or false"),
        ("pad_token", "[SEP]", r"pad_token='\[SEP\]': an open tokenizer has '<pad>'; open it again .*special=\{'pad': …\}"),
        ("bos_token", "<s>", r"bos_token='<s>': an open tokenizer has '\[CLS\]'; .*special=\{'cls': …\}"),
        ("mask_token_id", 9, r"mask_token_id=9: an open tokenizer has 5; the vocabulary says the ids"),
        ("do_lower_case", True, r"do_lower_case=True: an open tokenizer has False; .*from_pretrained\(…, do_lower_case=…\)"),
        ("model_input_names", ["attention_mask"], r"model_input_names=.*expected a list of names, \"input_ids\" among them"),
    ],
)  # fmt: skip
def test_what_cannot_be_assigned_says_what_to_do(tokenizer, name, value, message_):
    before = getattr(tokenizer, name)
    with pytest.raises(TokenizerError, match=message_):
        setattr(tokenizer, name, value)
    assert getattr(tokenizer, name) == before
    setattr(tokenizer, name, before)  # Says nothing new.


SPACED = "the cat . sat ? on ! the , mat ' s do n't I 'm it 's they 've we 're"


@pytest.mark.parametrize("clean", [None, False, True])
@pytest.mark.parametrize("by_setting", [False, True])
def test_clean_up_is_that_of_transformers(tmp_path, clean, by_setting):
    transformers = pytest.importorskip("transformers", reason="needs transformers, with which it is compared")
    words = [f"▁{word}" for word in dict.fromkeys(SPACED.split())]
    (tmp_path / "sentencepiece.model").write_bytes(model([*BASE, *map(piece, words)]))
    RemBertTokenizerFast.from_pretrained(tmp_path, clean_up_tokenization_spaces=by_setting).save_pretrained(tmp_path)
    other = transformers.RemBertTokenizer.from_pretrained(str(tmp_path))
    expected = (
        "the cat. sat? on! the, mat's don't I'm it's they've we're"
        if clean or (by_setting and clean is None)
        else SPACED
    )
    for kind in CLASSES:
        tokenizer = kind.from_pretrained(tmp_path)
        ids = tokenizer.encode(SPACED, add_special_tokens=False)
        options = {} if clean is None else {"clean_up_tokenization_spaces": clean}
        assert tokenizer.decode(ids, **options) == other.decode(ids, **options) == expected
        assert tokenizer.batch_decode([ids, []], **options) == [expected, ""]
