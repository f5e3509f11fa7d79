"""Whether the prediction ends in the reference's number.

Range: 0 or 1, higher is better; None where the reference holds no number.
Normalisation: a text's number is that of its first line `#### N`, or else the last one in it. Read in English
notation: 1,234.5 with commas every three digits, .5, -3 (also with the sign U+2212, also -$3), 1.5e3, the
digits of any script. Currency and percent signs are ignored: 50% is 50. Numbers are compared by value: 40.0
is 40. A fraction is two numbers.
Reference: GSM8K (Cobbe et al. 2021, arXiv:2110.14168), `extract_answer` in openai/grade-school-math; the last
number where no such line is there, as `flexible-extract` of lm-evaluation-harness' gsm8k task.
"""

import re
from decimal import Decimal

_CURRENCY = "$€£"
_NUMBER = re.compile(
    rf"""
    (?P<minus> (?<![\w)\]]) [-\u2212] [{_CURRENCY}]? )?     # a sign, not the dash of "10-3" or "step-3"
    (?P<digits> (?: \d{{1,3}} (?:,\d{{3}})+ (?!\d) | \d+ ) (?: \.\d+ )?
              | (?<![\w.]) \.\d+ )                          # not the "...5" of "let me see...5"
    (?P<exponent> [eE] [-+]? \d{{1,3}} (?!\d) )?            # three digits, so that Decimal can hold it
    """,
    re.VERBOSE,
)


def numeric_answer(prediction: str, reference: str) -> float | None:
    expected = _answer(reference)
    if expected is None:
        return None
    return float(_answer(prediction) == expected)


def _answer(text: str) -> Decimal | None:
    number = _marked_number(text) or _last_number(text)
    if number is None:
        return None
    value = Decimal(number["digits"].replace(",", "") + (number["exponent"] or ""))
    return value.copy_negate() if number["minus"] else value


def _marked_number(text: str) -> re.Match[str] | None:
    """The number of the first line `#### N`; a Markdown heading, "#### 2. Add them", is not such a line."""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("####"):
            number = line.removeprefix("####").strip().lstrip(_CURRENCY).rstrip("%. ")
            if match := _NUMBER.fullmatch(number):
                return match
    return None


def _last_number(text: str) -> re.Match[str] | None:
    number = None
    for number in _NUMBER.finditer(text):  # noqa: B007
        pass
    return number
