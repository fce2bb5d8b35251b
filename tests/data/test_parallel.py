"""Files of the same sentences in several languages."""

import pytest

from rembert_jax.data import pipeline, synthetic
from rembert_jax.data.parallel import keyed_files, keyed_sentences
from rembert_jax.data.pipeline import DataConfig
from rembert_jax.data.sources import SourceError


def _write(folder, **files):
    for language, text in files.items():
        (folder / f"{language}.tsv").write_text(text, encoding="utf-8")
    return f"{folder}/{{language}}.tsv"


def test_sentences_with_a_common_key_are_aligned_in_the_order_of_the_first_file(tmp_path):
    pattern = _write(tmp_path, en="b\tbe\na\tay\nx\tex\n", de="a\tah\n\nb\tbeh\ny\typsilon\n", fr="b\tbé\na\tà\tlà\n")
    found = keyed_sentences(pattern, ("en", "de", "fr", "zh"), 10)
    assert found == {"en": ["be", "ay"], "de": ["beh", "ah"], "fr": ["bé", "à\tlà"]}


def test_fewer_sentences_are_spread_over_the_file(tmp_path):
    text = "".join(f"{i}\tline {i}\n" for i in range(10))
    pattern = _write(tmp_path, en=text, de=text)
    assert keyed_sentences(pattern, ("en", "de"), 3)["de"] == ["line 0", "line 3", "line 6"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"en": "a\tA\n"}, r"files of 1 of the languages en, de, expected two or more"),
        ({"en": "a\tA\n", "de": "b\tB\n"}, "the files of en, de have no key in common"),
        ({"en": "a\tA\nno tab\n", "de": "a\tA\n"}, r"en\.tsv: the line 'no tab' is not of the form key<TAB>sentence"),
        ({"en": "a\t \n", "de": "a\tA\n"}, r"en\.tsv: the line 'a.*' is not of the form key<TAB>sentence"),
    ],
)
def test_files_that_do_not_fit_together_are_explained(tmp_path, files, message):
    pattern = _write(tmp_path, **files)
    with pytest.raises(SourceError, match=message):
        keyed_sentences(pattern, ("en", "de"), 10)


def test_pattern_that_names_several_files_is_refused(tmp_path):
    _write(tmp_path, en_1="a\tA\n", en_2="a\tA\n", de_1="a\tA\n")
    with pytest.raises(SourceError, match=r"en_1\.tsv and .*en_2\.tsv for language 'en'"):
        keyed_files(f"{tmp_path}/{{language}}_*.tsv", ("en", "de"))


def test_missing_files_are_found_when_sources_are_checked(tmp_path):
    config = DataConfig(source="synthetic", parallel=f"{tmp_path}/{{language}}.tsv")
    with pytest.raises(SourceError, match="files of 0 of the languages qaa, qab, qac, qad"):
        pipeline.check_sources(config)


def test_synthetic_languages_bring_the_sentences_of_their_world(tmp_path):
    config = DataConfig(source="synthetic", parallel_texts=5, synthetic=synthetic.SyntheticConfig(seed=3))
    found = pipeline.open_parallel(config, ("qab", "qaa"))
    expected = synthetic.translations(5, 3)
    assert found == {"qab": expected["qab"], "qaa": expected["qaa"]}
    assert pipeline.open_parallel(DataConfig(source="synthetic", parallel_texts=0), ("qaa", "qab")) == {}
    assert pipeline.open_parallel(config, ("qaa",)) == {}, "one language has no translations"
    assert pipeline.open_parallel(DataConfig(source="text", path=f"{tmp_path}"), ("en", "de")) == {}


def test_too_small_a_world_says_so(monkeypatch):
    monkeypatch.setattr(synthetic, "split_of", lambda sentence: "test")
    monkeypatch.setattr(synthetic.Speaker, "plain_sentence", lambda speaker: [(speaker.tongue.spec.code, "X")])
    with pytest.raises(ValueError, match="only 1 sentences of world 0 differ in every language, expected 3"):
        synthetic.translations(3)
