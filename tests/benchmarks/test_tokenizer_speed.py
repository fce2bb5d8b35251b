"""The benchmark of the tokenizers, with few lines."""

import json
import sys

import pytest
from helpers import run_process


@pytest.mark.parametrize("with_file", [False, True])
def test_table_and_json_name_every_tokenizer(tmp_path, with_file):
    command = [sys.executable, "benchmarks/tokenizer_speed.py", "--lines=40", "--vocab_size=200", "--repeats=2"]
    command += ["--batch=7", f"--output={tmp_path / 'out.json'}"]
    if with_file:
        (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 30, encoding="utf-8")
        command += [f"--text={tmp_path / 'text.txt'}", "--vocab_size=17"]
    done = run_process(command)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["lines"] == (30 if with_file else 40) and result["bytes"] > result["lines"]
    names = list(result["results"])
    assert names[1:4] == ["RemBertTokenizer, corpus", "RemBertTokenizer", "RemBertTokenizerFast"]
    assert ("transformers' RemBertTokenizer" in names) == ("transformers" in result["packages"])
    for name, values in result["results"].items():
        assert values["lines_per_second"] > 0 and len(values["seconds"]) == 2
        assert f"| {name} | {values['lines_per_second']:,} |" in done.stdout
    assert ("not compared" in done.stdout) == ("transformers" not in result["packages"])
