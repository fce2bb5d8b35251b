"""How many examples each file of XTREME should hold, where that is known.

Sources of the numbers: Table 11 of arXiv:2010.12821v1 (the same as XTREME's Table 1) for the rows that are the same in every
language; the READMEs of MLQA and LASER; TyDiQA-GoldP's development set, which XTREME tests on and whose 5,077
questions these numbers sum up to.
"""

from __future__ import annotations


def _by_language(text: str) -> dict[str, int]:
    pairs = (item.split("=") for item in text.split())
    return {language: int(count) for language, count in pairs}


# (task, split) to one number for every language, or to numbers by language. What is not here is not known.
COUNTS: dict[tuple[str, str], int | dict[str, int]] = {
    ("xnli", "train"): {"en": 392_702},
    ("xnli", "dev"): 2_490,
    ("xnli", "test"): 5_010,
    ("pawsx", "train"): {"en": 49_401},
    ("pawsx", "dev"): 2_000,
    ("pawsx", "test"): 2_000,
    ("panx", "train"): {"en": 20_000},
    ("panx", "dev"): {"en": 10_000},
    ("udpos", "train"): {"en": 21_253},
    ("udpos", "dev"): {"en": 3_974},
    ("squad", "train"): {"en": 87_599},
    ("squad", "dev"): {"en": 10_570},
    ("xquad", "test"): 1_190,
    ("mlqa", "dev"): _by_language("en=1148 de=512 es=500 ar=517 zh=504 vi=511 hi=507"),
    ("mlqa", "test"): _by_language("en=11590 de=4517 es=5254 ar=5335 zh=5137 vi=5495 hi=4918"),
    ("tydiqa", "train"): {"en": 3_696},
    ("tydiqa", "test"): _by_language("en=440 ar=921 bn=113 fi=782 id=565 ko=276 ru=812 sw=499 te=669"),
    ("tatoeba", "test"): _by_language(
        "ar=1000 he=1000 vi=1000 id=1000 jv=205 tl=1000 eu=1000 ml=687 ta=307 te=234 af=1000 nl=1000 de=1000 el=1000 bn=1000 "
        "hi=1000 mr=1000 ur=1000 fa=1000 fr=1000 it=1000 pt=1000 es=1000 bg=1000 ru=1000 ja=1000 ka=746 ko=1000 th=548 sw=390 "
        "zh=1000 kk=575 tr=1000 et=1000 fi=1000 hu=1000"
    ),
}


def count(task: str, split: str, language: str) -> int | None:
    """The number of examples; None where it is not known."""
    known = COUNTS.get((task, split))
    return known.get(language) if isinstance(known, dict) else known
