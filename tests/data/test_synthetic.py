"""The artificial languages: determinism, differences between languages, labels, and their TFDS form."""

import pathlib
import re
import unicodedata
from collections import Counter, defaultdict

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builders import conll

from rembert_jax.data import synthetic, synthetic_tfds
from rembert_jax.data.synthetic import LANGUAGES, UPOS, document, language, sentence_pair, tagged_sentence
from rembert_jax.tasks.datasets import to_python

CODES = tuple(LANGUAGES)
MAKERS = (document, tagged_sentence, sentence_pair)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("code", CODES)
def test_pure_function_of_its_arguments(make, code):
    first = make(code, "train", 3, seed=1)
    synthetic.language.cache_clear()
    synthetic.world.cache_clear()
    assert make(code, "train", 3, seed=1) == first
    others = [make(code, "train", 4, seed=1), make(code, "test", 3, seed=1), make(code, "train", 3, seed=2)]
    assert first not in others


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("make", [tagged_sentence, sentence_pair])
def test_labelled_splits_share_no_example(make, code):
    train, validation, test = ({repr(make(code, split, i)) for i in range(300)} for split in synthetic.SPLITS)
    assert not train & validation and not train & test and not validation & test
    assert min(map(len, (train, validation, test))) > 100


def test_documents_fill_four_to_seven_sentences():
    counts = Counter(document("qaa", "train", i).count(".") for i in range(200))
    assert set(counts) == {4, 5, 6, 7}


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


def test_a_tenth_of_the_documents_are_dictionary_pages_whose_entries_translate():
    concepts = defaultdict(set)  # Surface form to (language, concept); several concepts may share a form.
    for code in CODES:
        for concept in language(code, 0).world.concepts:
            for synonym in (0, 1):
                concepts[language(code, 0).lexeme(concept, synonym)[0]].add((code, concept.index))
    documents = [document("qaa", "train", i) for i in range(600)]
    pages = [text for text in documents if "(" in text]
    share = synthetic.DICTIONARIES
    assert abs(len(pages) / len(documents) - share) < 4 * np.sqrt(share * (1 - share) / len(documents))
    for page in pages:
        entries = re.findall(r"(\w+) \(([^)]*)\)\.", page)
        assert len(entries) == synthetic.NOUNS + synthetic.VERBS + synthetic.ADJECTIVES
        for word, translations in entries:
            meanings = [concepts[form] for form in (word, *translations.split(", "))]
            assert [{code for code, _ in meaning} for meaning in meanings] == [{code} for code in CODES]
            assert set.intersection(*({index for _, index in meaning} for meaning in meanings))


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
    tongue = language("qaa", 0)
    topic_of = defaultdict(set)
    for concept in tongue.world.concepts:
        for stem in tongue.synonyms[concept.index]:
            topic_of[stem].add(concept.topic)
    for i in range(40):
        words = re.findall(r"\w+", document("qaa", "train", i))
        topics = [topic_of[word] for word in words if word in topic_of]
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
            for form in ("", "object", "past"):
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


def test_second_sentences_name_somebody_in_two_cases_of_three():
    named = [any(word[0].isupper() for word in sentence_pair("qaa", "train", i)[1].split()) for i in range(300)]
    assert abs(np.mean(named) - 2 / 3) < 0.11  # Four standard deviations.


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


def _spec(features):
    """Feature names to types and label names, with sequences marked."""
    result = {}
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)
        names = getattr(inner, "names", None)
        result[name] = (type(feature).__name__, type(inner).__name__, names)
    return result


def test_tagging_set_has_the_features_of_xtreme_pos(tmp_path):
    info = tfds.builder("synthetic_pos/qab", data_dir=str(tmp_path)).info
    assert _spec(info.features) == _spec(conll.XTREME_POS_FEATURES)


def test_pair_set_has_the_features_of_paws_x_wiki(tmp_path):
    own = tfds.builder("synthetic_paws_x/qab", data_dir=str(tmp_path)).info.features
    real = tfds.builder("paws_x_wiki/de", data_dir=str(tmp_path)).info.features
    assert _spec(own) == _spec(real)


@pytest.fixture
def small_sets(monkeypatch):
    monkeypatch.setattr(synthetic_tfds, "LABELLED_SIZES", {"train": 6, "validation": 4, "test": 4})


@pytest.mark.parametrize("name", ["synthetic_pos", "synthetic_paws_x"])
def test_written_examples_come_back(tmp_path, small_sets, name):
    synthetic_tfds.prepare(f"{name}/qaa", str(tmp_path))
    builder = tfds.builder(f"{name}/qaa", data_dir=str(tmp_path))
    records = [{key: to_python(value) for key, value in record.items()} for record in builder.as_data_source("train")]
    assert len(records) == 6
    if name == "synthetic_pos":
        found = [(record["tokens"], [UPOS[tag] for tag in record["upos"]]) for record in records]
        expected = [tagged_sentence("qaa", "train", i) for i in range(6)]
    else:
        found = [(record["sentence1"], record["sentence2"], record["label"]) for record in records]
        expected = [sentence_pair("qaa", "train", i) for i in range(6)]
    assert sorted(found) == sorted(expected)


def test_only_the_labelled_language_has_a_training_split(tmp_path, small_sets):
    for code, splits in (("qaa", {"train", "validation", "test"}), ("qab", {"validation", "test"})):
        synthetic_tfds.prepare(f"synthetic_paws_x/{code}", str(tmp_path))
        assert set(tfds.builder(f"synthetic_paws_x/{code}", data_dir=str(tmp_path)).info.splits) == splits


def test_sets_are_written_once(tmp_path, small_sets):
    synthetic_tfds.prepare("synthetic_pos/qac", str(tmp_path))
    files = {path: path.stat().st_mtime_ns for path in pathlib.Path(tmp_path).rglob("*") if path.is_file()}
    synthetic_tfds.prepare("synthetic_pos/qac", str(tmp_path))
    assert files == {path: path.stat().st_mtime_ns for path in pathlib.Path(tmp_path).rglob("*") if path.is_file()}


def test_empty_data_folder_is_tfds_own(tmp_path, small_sets, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path)
    synthetic_tfds.prepare("synthetic_pos/qad", "")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
