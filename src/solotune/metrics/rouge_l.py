"""How much of the reference's wording the prediction keeps in order: the longest common subsequence of words.

Range: 0..1, higher is better; None where the reference holds no word.
Normalisation: lower case, no stemming; a word is a run of letters, digits and their marks in any script. Text
written without spaces (Chinese, Japanese, Thai) is therefore one word a run.
Reference: ROUGE-L F1 with β = 1 over the text as one sentence (Lin 2004, "ROUGE: A Package for Automatic
Evaluation of Summaries", section 3.1), as `rougeL` of google's rouge-score 0.1.2 with `use_stemmer=False`,
whose scores these are on ASCII. rouge-score knows no letters but a-z, so that text in another script scores
0 there.
"""

import unicodedata

from rapidfuzz.distance import LCSseq


def rouge_l(prediction: str, reference: str) -> float | None:
    predicted, expected = _words(prediction), _words(reference)
    if not expected:
        return None
    return 2 * LCSseq.similarity(predicted, expected) / (len(predicted) + len(expected))


def _words(text: str) -> list[str]:
    # Not re's \w: that leaves out the marks which are the vowels of Hindi or Tamil, and cuts words at them.
    spaced = "".join(character if _is_word_part(character) else " " for character in text.lower())
    # A run of marks alone is what an emoji leaves behind (its variation selector).
    return [word for word in spaced.split() if any(map(str.isalnum, word))]


def _is_word_part(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"
