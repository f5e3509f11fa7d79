"""Whether the prediction is the reference, character by character.

Range: 0 or 1, higher is better; applies to every row.
Normalisation: whitespace at both ends is ignored, nothing else. Two JSON texts of equal value but other
spacing differ here; `json_fields_f1` compares values.
Reference: the exact-match score of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250), without its
normalisation.
"""


def exact_match(prediction: str, reference: str) -> float:
    return float(prediction.strip() == reference.strip())
