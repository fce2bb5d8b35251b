"""The artificial languages: determinism, differences between languages, and labels."""

import functools
import re
import unicodedata
from collections import Counter, defaultdict

import numpy as np
import pytest

from rembert_jax.data import synthetic, synthetic_world
from rembert_jax.data.synthetic import (
    SyntheticConfig,
    document,
    sentence_pair,
    tagged_sentence,
    to_text,
    topic_sentence,
    translations,
)
from rembert_jax.data.synthetic_world import FUNCTION_WORDS, LANGUAGES, UPOS, language
from rembert_jax.errors import RemBertError

CODES = tuple(LANGUAGES)
RETOLD = SyntheticConfig(mixed=0.0, dictionary=0.0, retold=1.0)


def document_of_world(code, split, index, seed=0):
    return document(code, split, index, SyntheticConfig(seed=seed))


LABELLED = (tagged_sentence, topic_sentence, sentence_pair)
MAKERS = (document_of_world, *LABELLED)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("code", CODES)
def test_pure_function_of_its_arguments(make, code):
    first = make(code, "train", 3, seed=1)
    synthetic_world.language.cache_clear()
    synthetic_world.world.cache_clear()
    assert make(code, "train", 3, seed=1) == first
    others = [make(code, "train", 4, seed=1), make(code, "test", 3, seed=1), make(code, "train", 3, seed=2)]
    assert first not in others


@pytest.mark.parametrize("code", CODES)
def test_no_sentence_of_one_split_stands_in_another(code):
    sentences = {}
    for split in synthetic.SPLITS:
        documents = [document(code, split, i) for i in range(400)]
        documents += [document(code, split, i, RETOLD) for i in range(200)]
        texts = {text for found in documents for text in re.findall(r"[^.]+\.", found) if "(" not in text}
        texts = {text.strip() for text in texts}
        texts |= {_text(tagged_sentence(code, split, i)[0]) for i in range(200)}
        texts |= {topic_sentence(code, split, i)[0] for i in range(200)}
        texts |= {text for i in range(200) for text in sentence_pair(code, split, i)[:2]}
        sentences[split] = texts
    assert not sentences["train"] & (sentences["validation"] | sentences["test"])
    assert not sentences["validation"] & sentences["test"]
    assert min(map(len, sentences.values())) > 500
    looked_up = set(translations(50)[code])
    assert len(looked_up) == 50 and not looked_up & sentences["train"]


def _text(tokens):
    return to_text([(token, "") for token in tokens])


def test_documents_fill_three_or_four_sentences():
    counts = Counter(document("qaa", "validation", i).count(".") for i in range(200))
    assert set(counts) == {3, 4}


def _scripts(text):
    """Scripts of the words of a text that are neither numbers nor names."""
    return {_script(word) for word in re.findall(r"\w+", text) if not word.isdigit() and not word[0].isupper()}


@pytest.mark.parametrize("code", CODES)
def test_only_training_text_mixes_languages(code):
    plain = SyntheticConfig(mixed=0.0, dictionary=0.0)
    for split, config in (("validation", SyntheticConfig()), ("test", SyntheticConfig()), ("train", plain)):
        for i in range(100):
            assert _scripts(document(code, split, i, config)) == {SCRIPTS[code]}
    everything = SyntheticConfig(mixed=1.0, dictionary=0.0)
    articles = {language(each, 0).function["the"] for each in CODES}  # Not all languages have one to lend.
    content, functions = {True: 0, False: 0}, {True: 0, False: 0}
    every_function = {form for each in CODES for form in language(each, 0).function.values()}
    for i in range(200):
        for word in re.findall(r"\w+", document(code, "train", i, everything)):
            if not word.isdigit() and not word[0].isupper() and word not in articles:
                (functions if word in every_function else content)[_script(word) == SCRIPTS[code]] += 1
    for counts in (content, functions):
        share = counts[False] / sum(counts.values())
        assert abs(share - synthetic.FOREIGN) < 0.05 and sum(counts.values()) > 1000


@pytest.mark.parametrize("code", CODES)
def test_mixed_text_has_articles_where_its_language_has_them(code):
    articles = {each: language(each, 0).function["the"] for each in CODES}
    texts = " ".join(document(code, "train", i, SyntheticConfig(mixed=1.0, dictionary=0.0)) for i in range(50))
    found = {each for each, word in articles.items() if re.search(rf"\b{word}\b", texts)}
    assert found == ({each for each in CODES if LANGUAGES[each].articles} if LANGUAGES[code].articles else set())


def test_shares_of_training_documents_are_those_of_the_config():
    config = SyntheticConfig(mixed=0.5, dictionary=0.2, retold=0.2)
    documents = [document("qab", "train", i, config) for i in range(800)]
    pages = sum("(" in text for text in documents)
    mixed = sum("(" not in text and _scripts(text) != {"CYRILLIC"} for text in documents)
    retold = sum("(" not in text and _tellings(text, "qab") is not None for text in documents)
    for count, share in ((pages, 0.2), (mixed, 0.5), (retold, 0.2)):
        assert abs(count / len(documents) - share) < 4 * np.sqrt(share * (1 - share) / len(documents))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixed": 1.5}, r"mixed=1\.5: expected a share between 0 and 1"),
        ({"dictionary": -0.1}, r"dictionary=-0\.1: expected a share between 0 and 1"),
        ({"retold": 2.0}, r"retold=2\.0: expected a share between 0 and 1"),
        ({"documents": 1.1}, r"documents=1\.1: expected a share between 0 and 1"),
        ({"mixed": 0.7, "dictionary": 0.6}, r"mixed=0\.7, dictionary=0\.6, retold=0\.0: expected shares whose sum is"),
        (
            {"mixed": 0.7, "retold": 0.4},
            r"mixed=0\.7, dictionary=0\.1, retold=0\.4: expected shares whose sum is at most",
        ),
        ({"seed": -1}, "seed=-1: expected 0 or more"),
    ],
)
def test_impossible_worlds_are_refused(values, message):
    with pytest.raises(RemBertError, match=message):
        SyntheticConfig(**values)


SCRIPTS = {"qaa": "LATIN", "qab": "CYRILLIC", "qac": "GREEK", "qad": "ARMENIAN"}


def _script(word):
    """Script of a word: the first word of the Unicode names of its letters."""
    (script,) = {unicodedata.name(letter).split()[0] for letter in word}
    return script


@pytest.mark.parametrize("code", CODES)
def test_labelled_sentences_are_written_in_the_languages_own_script(code):
    scripts = Counter()
    for i in range(100):
        tokens, tags = tagged_sentence(code, "train", i)
        scripts.update(_script(t) for t, tag in zip(tokens, tags, strict=True) if tag not in ("PROPN", "NUM", "PUNCT"))
    assert set(scripts) == {SCRIPTS[code]}


def test_languages_share_only_digits_punctuation_and_names():
    words = {code: {token for i in range(300) for token in tagged_sentence(code, "train", i)[0]} for code in CODES}
    shared = set.intersection(*words.values())
    assert {".", ","} < shared
    for word in shared - {".", ","}:
        assert word.isdigit() or (word[0].isupper() and _script(word) == "LATIN")


@functools.cache
def _meanings():
    """Surface form to what it means as (language, meaning); several meanings may share a form."""
    meanings = defaultdict(set)
    for code in CODES:
        tongue = language(code, 0)
        for concept in tongue.world.concepts:
            for synonym in (0, 1):
                meanings[tongue.lexeme(concept, synonym)[0]].add((code, concept.index))
        for name in FUNCTION_WORDS:
            meanings[tongue.word(name)[0]].add((code, name))
    return meanings


def _meanings_of(code, word):
    """What a word of a language may mean, inflected or not; a number and a name mean themselves."""
    affixes = language(code, 0).affixes.values()
    stems = [word, word[: len(word) // 2], *(word.removesuffix(affix) for affix in affixes)]
    stems += [word.removeprefix(affix) for affix in affixes]
    return {meaning for stem in stems for c, meaning in _meanings().get(stem, ()) if c == code} or {word}


def _tellings(text, code):
    """The sentences of a document in pairs that mean the same word for word; None if there are no such pairs."""
    first, second, *others = (re.findall(r"\w+", sentence) for sentence in text.split(".")[:-1])
    for pairs in (zip((first, second), order, strict=True) for order in (others, others[::-1]) if len(others) == 2):
        found = list(pairs)
        if all(
            len(one) == len(other)
            and all(_meanings_of(code, a) & _meanings_of(code, b) for a, b in zip(one, other, strict=True))
            for one, other in found
        ):
            return found
    return None


@pytest.mark.parametrize("code", CODES)
def test_a_retold_document_says_everything_twice_also_in_other_words_and_orders(code):
    documents = [document(code, "train", i, RETOLD) for i in range(100)]
    pairs = [_tellings(text, code) for text in documents]
    assert None not in pairs
    told = [pair for each in pairs for pair in each]
    # Synonyms are chosen for each telling; and two texts are rarer than one to be both of those for training.
    assert 0.5 < np.mean([one == other for one, other in told]) < 0.9
    numbers = [word for one, _ in told for word in one if word.isdigit()]
    known = {str(concept.number) for concept in synthetic_world.world(0).concepts}
    assert (
        len(numbers) > 50 and np.mean([number in known for number in numbers]) < 0.1
    )  # They hold in this document only.
    kept = [re.findall(r"\w+", text.split(".")[2]) == each[0][1] for text, each in zip(documents, pairs, strict=True)]
    assert 0.25 < np.mean(kept) < 0.75


def test_entries_of_dictionary_pages_translate_and_a_quarter_are_function_words():
    meanings, topical = _meanings(), synthetic_world.NOUNS + synthetic_world.VERBS + synthetic_world.ADJECTIVES
    for i in range(60):
        page = document("qaa", "train", i, SyntheticConfig(mixed=0.0, dictionary=1.0))
        entries = re.findall(r"(\w+) \(([^)]*)\)\.", page)
        functions = 0
        for word, translated in entries:
            found = [meanings[form] for form in (word, *translated.split(", "))]
            codes = [{code for code, _ in meaning} for meaning in found]
            assert codes in ([{code} for code in CODES], [{code} for code in CODES if LANGUAGES[code].articles])
            (same, *_) = set.intersection(*({meaning for _, meaning in each} for each in found))
            functions += isinstance(same, str)
        assert functions == len(entries) / 4 and len(entries) == topical * 4 / 3


def test_translations_mean_the_same_word_for_word():
    for sentences in zip(*translations(50).values(), strict=True):
        bags = []
        for code, text in zip(CODES, sentences, strict=True):
            words = [word for word in re.findall(r"\w+", text) if word != language(code, 0).function["the"]]
            assert not any(word.isdigit() or word[0].isupper() for word in words)
            bags.append([_meanings_of(code, word) for word in words])
        assert len({len(bag) for bag in bags}) == 1
        for meaning in bags[0]:
            assert all(any(meaning & other for other in bag) for bag in bags[1:])


@pytest.mark.parametrize("make", [topic_sentence, sentence_pair])
def test_sentences_whose_topic_is_asked_hold_nothing_that_languages_share(make):
    words = {code: Counter() for code in CODES}
    for code in CODES:
        for i in range(200):
            for text in (part for part in make(code, "train", i) if isinstance(part, str)):
                words[code].update(re.findall(r"\w+", text))
    assert not any(word.isdigit() or word[0].isupper() for counts in words.values() for word in counts)
    assert all(not set(words[one]) & set(words[other]) for one in CODES for other in CODES if one != other)


@pytest.mark.parametrize("code", CODES)
def test_topic_of_a_sentence_is_that_of_its_words(code):
    for i in range(200):
        text, topic = topic_sentence(code, "train", i)
        assert set.intersection(*_known_words(code, text).values()) == {topic}


def _simple_clauses(code):
    """Tags of sentences of the form pronoun or name, one verb, an object: the only ones where order shows cleanly."""
    for i in range(600):
        tokens, tags = tagged_sentence(code, "train", i)
        core = [tag for tag in tags if tag in ("PRON", "PROPN", "VERB", "NOUN")]
        if core.count("VERB") == 1 and core.count("NOUN") == 1 and len(core) == 3 and "NUM" not in tags:
            yield core, tokens, tags


@pytest.mark.parametrize(("code", "verb"), [("qaa", 1), ("qab", 1), ("qac", 2), ("qad", 0)])
def test_verb_stands_where_the_word_order_says(code, verb):
    clauses = [core for core, _, _ in _simple_clauses(code)]
    assert len(clauses) > 20
    assert {core.index("VERB") for core in clauses} == {verb}
    assert LANGUAGES[code].order.index("V") == verb


@pytest.mark.parametrize("code", CODES)
def test_articles_only_where_the_grammar_has_them(code):
    tags = {tag for i in range(100) for tag in tagged_sentence(code, "train", i)[1]}
    assert ("DET" in tags) == LANGUAGES[code].articles


@pytest.mark.parametrize("code", CODES)
def test_inflection_is_a_suffix_a_prefix_or_a_doubling(code):
    tongue = language(code, 0)
    concept = tongue.world.concepts[0]
    stem, affix = tongue.synonyms[concept.index][0], tongue.affixes["plural"]
    expected = {"suffix": stem + affix, "prefix": affix + stem, "reduplication": stem + stem}
    assert tongue.lexeme(concept, 0, "plural") == (expected[LANGUAGES[code].inflection], "NOUN")
    assert tongue.lexeme(concept, 0) == (stem, "NOUN")


@pytest.mark.parametrize("code", CODES)
def test_tags_are_universal_and_fit_the_tokens(code):
    seen = Counter()
    for i in range(300):
        tokens, tags = tagged_sentence(code, "train", i)
        assert len(tokens) == len(tags) and tokens[-1] == "." and tags[-1] == "PUNCT"
        seen.update(tags)
        for token, tag in zip(tokens, tags, strict=True):
            assert token.isdigit() == (tag == "NUM")
            assert (token in ".,") == (tag == "PUNCT")
            assert token[0].isupper() == (tag == "PROPN")
    assert set(seen) <= set(UPOS)
    assert {"ADJ", "ADP", "ADV", "AUX", "CCONJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "VERB"} <= set(seen)


@pytest.mark.parametrize("code", CODES)
def test_some_words_are_noun_and_verb(code):
    tags = defaultdict(Counter)
    for i in range(600):
        for token, tag in zip(*tagged_sentence(code, "train", i), strict=True):
            tags[token][tag] += 1
    both = [token for token, counts in tags.items() if {"NOUN", "VERB"} <= set(counts)]
    assert len(both) >= 3, "a tagger that looks at single words only cannot be perfect"


def test_document_is_about_one_topic():
    for i in range(40):
        topics = _known_words("qaa", document("qaa", "validation", i)).values()
        assert topics and set.intersection(*topics)


@pytest.mark.parametrize("code", CODES)
def test_pair_labels_are_balanced(code):
    labels = [sentence_pair(code, "train", i)[2] for i in range(400)]
    assert set(labels) == {0, 1} and abs(sum(labels) - 200) < 50  # Five standard deviations.


def _topics(code):
    """Surface form of a content word, name or city to the topics it belongs to."""
    tongue = language(code, 0)
    topics = defaultdict(set)
    for concept in tongue.world.concepts:
        for synonym in (0, 1):
            for form in ("", *synthetic_world.FORMS):
                topics[tongue.lexeme(concept, synonym, form)[0]].add(concept.topic)
    for topic, (people, cities) in enumerate(zip(tongue.world.people, tongue.world.cities, strict=True)):
        for name in (*cities, *(name for person in people for name in person)):
            topics[name].add(topic)
    return topics


def _known_words(code, text):
    topics = _topics(code)
    return {word: topics[word] for word in re.findall(r"\w+", text) if word in topics}


@pytest.mark.parametrize("code", CODES)
def test_sentences_of_a_pair_share_no_name_and_no_content_word(code):
    for i in range(200):
        first, second = (_known_words(code, text) for text in sentence_pair(code, "train", i)[:2])
        assert first and second and not set(first) & set(second)


@pytest.mark.parametrize("code", CODES)
def test_labels_say_whether_the_topic_is_the_same(code):
    for i in range(200):
        *texts, label = sentence_pair(code, "train", i)
        first, second = (set.intersection(*_known_words(code, text).values()) for text in texts)
        assert len(first) == len(second) == 1
        assert (first == second) == bool(label)


def test_length_and_word_overlap_do_not_tell_the_label():
    found = defaultdict(list)
    for i in range(600):
        first, second, label = sentence_pair("qaa", "train", i)
        one, other = first.split(), second.split()
        found[label].append((len(one), len(other), len(set(one) & set(other))))
    means = {label: np.mean(rows, axis=0) for label, rows in found.items()}
    assert np.all(np.abs(means[0] - means[1]) < 0.3)


def test_unknown_language_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown synthetic language 'qzz': expected one of qaa, qab, qac, qad"):
        document("qzz", "train", 0)
    with pytest.raises(ValueError, match="unknown split 'dev' of a synthetic language: expected one of train, valid"):
        document("qaa", "dev", 0)
