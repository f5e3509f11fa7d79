"""Whether the reference occurs somewhere in the prediction.

Range: 0 or 1, higher is better; None where the reference is blank, since every text contains that.
Normalisation: Unicode case folding of both; whitespace at the ends of the reference is ignored. Word
boundaries do not count: "17" contains "7".
Reference: `Includes` of openai/evals (`evals/elsuite/basic/includes.py`), here with case ignored.
"""


def contains(prediction: str, reference: str) -> float | None:
    wanted = reference.strip().casefold()
    if not wanted:
        return None
    return float(wanted in prediction.casefold())
