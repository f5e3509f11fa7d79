"""How many words prediction and reference share, in any order.

Range: 0..1, higher is better; applies to every row. Two texts without a word score 1, one without a word 0.
Normalisation: lower case; punctuation deleted (ASCII's, and whatever Unicode calls punctuation), the English
articles "a", "an", "the" dropped; words split at whitespace. Text written without spaces (Chinese, Japanese,
Thai) is therefore one word a run.
Reference: `f1_score` of the official SQuAD v1.1 evaluation (Rajpurkar et al. 2016, arXiv:1606.05250), whose
scores these are on printable ASCII; Unicode's punctuation as in MLQA's (Lewis et al. 2020, arXiv:1910.07475),
and the score of two texts without a word as in SQuAD v2.0's.
"""

import string
import unicodedata
from collections import Counter


def token_f1(prediction: str, reference: str) -> float:
    predicted, expected = _words(prediction), _words(reference)
    if not predicted and not expected:
        return 1.0
    shared = (Counter(predicted) & Counter(expected)).total()
    return 2 * shared / (len(predicted) + len(expected))


def _words(text: str) -> list[str]:
    kept = "".join(character for character in text.lower() if not _is_punctuation(character))
    return [word for word in kept.split() if word not in {"a", "an", "the"}]


def _is_punctuation(character: str) -> bool:
    # Unicode files some of ASCII's, such as $ and +, under symbols.
    return character in string.punctuation or unicodedata.category(character).startswith("P")
