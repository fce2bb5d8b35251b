"""What the tests of tokenizer files share: the two classes, pieces of a vocabulary, changes of a JSON file."""

import json

from model_proto import SPECIAL, piece

from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast

CLASSES = [RemBertTokenizer, RemBertTokenizerFast]
BASE = [piece(*entry) for entry in SPECIAL]
TINY = [*BASE, piece("▁the")]


def change_json(path, change):
    """Rewrites a JSON file after `change` has worked on its object."""
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def set_value(*path):
    """A change that puts the last argument where the others lead."""
    *path, value = path

    def change(values):
        node = values
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change
