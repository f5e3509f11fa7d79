"""How many of the runs of one to six characters prediction and reference share: sentence-level chrF.

Range: 0..1 (sacrebleu's 0..100, divided), higher is better; None where the reference is blank.
Normalisation: whitespace does not count. With `word_order: 2`, runs of one and two words count too (chrF++).
Reference: `CHRF().sentence_score` of sacrebleu (Post 2018, arXiv:1804.08771; Popović 2015, "chrF: character n-gram
F-score for automatic MT evaluation"; β = 2), signature `nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no`.
"""

from __future__ import annotations

from typing import Literal

from solotune.metrics.kinds import AnswerOptions, Scorer


class Chrf(AnswerOptions):
    word_order: Literal[0, 2] = 0
    """Longest run of words that counts too: 0 is chrF, 2 is chrF++."""
    lowercase: bool = False
    """Whether case is ignored."""

    def scorer(self) -> Scorer:
        from sacrebleu.metrics.chrf import CHRF

        metric = CHRF(word_order=self.word_order, lowercase=self.lowercase)

        def chrf(prediction: str, reference: str) -> float | None:
            if not reference.strip():
                return None
            return min(1.0, float(metric.sentence_score(prediction, [reference]).score) / 100)

        chrf("a", "a")  # its signature knows the count of references after a first score only
        return Scorer(chrf, str(metric.get_signature()))
