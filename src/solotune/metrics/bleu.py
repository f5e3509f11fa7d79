"""How many of the prediction's runs of one to four words are in the reference: sentence-level BLEU.

Range: 0..1 (sacrebleu's 0..100, divided), higher is better; None where the reference holds no word.
Normalisation: none but the tokeniser's, `13a` if not told otherwise; for text without spaces `zh` or `char`.
A short answer counts the runs that it can have (effective order), and a run that never matches is smoothed (`exp`).
Reference: `BLEU(effective_order=True).sentence_score` of sacrebleu (Post 2018, arXiv:1804.08771; Papineni et al. 2002),
signature `nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp`. The mean over rows is not the corpus BLEU of papers.
"""

from __future__ import annotations

from typing import Literal

from solotune.metrics.kinds import AnswerOptions, Scorer


class Bleu(AnswerOptions):
    tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """sacrebleu's tokeniser."""
    lowercase: bool = False
    """Whether case is ignored."""

    def scorer(self) -> Scorer:
        from sacrebleu.metrics.bleu import BLEU

        metric = BLEU(tokenize=self.tokenize, lowercase=self.lowercase, effective_order=True)

        def bleu(prediction: str, reference: str) -> float | None:
            if not metric.tokenizer(reference).split():
                return None
            return min(1.0, metric.sentence_score(prediction, [reference]).score / 100)  # it gives 100.00000000000004

        bleu("a", "a")  # its signature knows the count of references after a first score only
        return Scorer(bleu, str(metric.get_signature()))
