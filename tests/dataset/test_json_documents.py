"""JSON documents that must be taken or refused, as lines and as values of a line; and any bytes at all."""

import base64
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solotune.config.schema import DatasetConfig
from solotune.dataset.clean import Counts, clean, quarantine_line
from solotune.dataset.contract import decode
from solotune.dataset.diagnose import load_object
from solotune.dataset.formats import FORMATS, Parser
from solotune.dataset.readers import read_file
from solotune.dataset.readers.source import RawRecord
from solotune.dataset.reasons import REASONS, RowProblem
from solotune.errors import DataError

BOM = "\ufeff"

NUMBERS = [
    "0",
    "-0",
    "1",
    "-1",
    "7",
    "42",
    "10",
    "100",
    "-100",
    "0.0",
    "-0.0",
    "0.5",
    "-0.5",
    "1.0",
    "1.50",
    "0e0",
    "0E0",
    "0e1",
    "0e+1",
    "0e-1",
    "0.0e0",
    "1e1",
    "1E1",
    "1e+1",
    "1e-1",
    "1E+01",
    "1e00",
    "1.5e-3",
    "-1.5E+3",
    "123.456e78",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "1e308",
    "-1e308",
    "2.2250738585072014e-308",
    "5e-324",
    "1e-400",
    "3.14159265358979323846264338327950288",
    "100000000000000000000000000000000000000000",
    "0.00000000000000000000000000000000000000000000000000000000000000000001",
]
LITERALS = ["true", "false", "null"]
STRINGS = {
    r'""': "",
    r'"a"': "a",
    '" "': " ",
    r'"\"\\\/\b\f\n\r\t"': '"\\/\b\f\n\r\t',
    r'"/"': "/",
    r'"\\"': "\\",
    r'"\\\\"': "\\\\",
    r'"\\u0041"': "\\u0041",
    r'"\\n"': "\\n",
    r'"\u0041"': "A",
    r'"\u00e9"': "é",
    r'"\u00E9"': "é",
    r'"\u0000"': "\0",
    r'"\u001f"': "\x1f",
    r'"\u0022"': '"',
    r'"\u005C"': "\\",
    r'"\u007f"': "\x7f",
    r'"\u2028\u2029"': "\u2028\u2029",
    r'"\uFEFF"': BOM,
    r'"\uFFFF"': "\uffff",
    r'"\uD7FF\uE000"': "\ud7ff\ue000",
    r'"\ud83d\ude00"': "😀",
    r'"\uD800\uDC00"': "\U00010000",
    r'"\uDBFF\uDFFF"': "\U0010ffff",
    r'"x\uD83D\uDE00y"': "x😀y",
    '"é"': "é",
    '"e\u0301"': "e\u0301",
    '"😀"': "😀",
    '"\u2028"': "\u2028",
    '"\u2029"': "\u2029",
    '"\x7f"': "\x7f",
    '"\x85"': "\x85",
    f'"{BOM}"': BOM,
    '"\uffff"': "\uffff",
    '"\U0010ffff"': "\U0010ffff",
    '"\u200b"': "\u200b",
    '"[1,{}]:/*#"': "[1,{}]:/*#",
    r'"{\"a\":1}"': '{"a":1}',
    '"\'"': "'",
    '"NaN"': "NaN",
}
STRUCTURES = [
    "[]",
    "{}",
    "[[]]",
    "[{}]",
    '{"a":[]}',
    '{"a":{}}',
    "[1]",
    "[1,2]",
    "[ 1 , 2 ]",
    "[\t1,\r2 ]",
    '["a",1,null,true,{"b":[false]}]',
    '{"":0}',
    '{"a":1}',
    '{ "a" : 1 }',
    '\t{\r"a"\t:\r1 }',
    ' {"a":1,"b":2} ',
    '{"a":1,"A":2}',
    '{"a":{"a":{"a":1}}}',
    '{"a":[{"a":1},{"a":2}]}',
    '{"a":"a"}',
    '{"a":"\\"a\\":"}',
    r'{"\u0061":1,"b":2}',
    r'{"\ud83d\ude00":1}',
    r'{"\n":1,"\\n":2}',
    '{"é":1,"e\u0301":2}',
    '{"\u200b":1,"":2}',
    '{"__proto__":1,"constructor":2}',
    "[" * 60 + "]" * 60,
    '{"a":' * 60 + "1" + "}" * 60,
    "[" + "0," * 5000 + "0]",
]
ACCEPTED = [*NUMBERS, *LITERALS, *STRINGS, *STRUCTURES]

REFUSED: dict[str, list[str | bytes]] = {
    "invalid_json": [
        # Numbers.
        *[
            "+1",
            "+0",
            "++1",
            "--1",
            "-+1",
            "-",
            "+",
            "01",
            "-01",
            "00",
            "-00",
            "012",
            ".5",
            "-.5",
            "+.5",
            "5.",
            "-5.",
            "1.e1",
            "0.e1",
            "2.e+3",
            ".",
            "-.",
            "1e",
            "1e+",
            "1e-",
            "1E",
            "0e",
            "0e+",
            "0E-",
            "1eE2",
            "1ee2",
            "1e1.5",
            "1e+-1",
            "e5",
            "E5",
            "0x10",
            "0X1F",
            "0x",
            "-0x1",
            "0b1",
            "0o7",
            "1_000",
            "1'000",
            "1.2.3",
            "1..2",
            "1a",
            "1f",
            "1L",
            "1n",
            "1-1",
            "1+2",
            "1/2",
            "$1",
            "1%",
            "#1",
            "(1)",
            "١",
            "１",
            "1e٣",
            "½",
            "∞",
            "NaN",
            "nan",
            "-NaN",
            "+NaN",
            "Infinity",
            "-Infinity",
            "+Infinity",
            "infinity",
            "Inf",
            "-Inf",
            "inf",
            "1e999",
            "-1e999",
            "1e+9999",
            "1.0e400",
            "1" * 5000,
            "-" + "9" * 5000,
        ],
        "- 1",
        "1 e5",
        "1e 5",
        "1. 5",
        "1 000",
        # Literals.
        *[
            "True",
            "False",
            "None",
            "TRUE",
            "NULL",
            "Null",
            "nul",
            "tru",
            "fals",
            "truee",
            "nulll",
            "nulltrue",
            "null0",
            "undefined",
            "nil",
            "yes",
        ],
        # Strings.
        '"',
        '"a',
        '"\\',
        '"\\"',
        '"\\\\\\"',
        "'a'",
        "`a`",
        "“a”",
        "«a»",
        "a",
        r"\u0041",
        r"\"a\"",
        '"a"b"',
        '""x',
        '"a""b"',
        '"a" "b"',
        *(rf'"\{c}"' for c in "xaveUN0178' #%é"),
        r'"\x41"',
        r'"\u"',
        r'"\u1"',
        r'"\u12"',
        r'"\u123"',
        r'"\u123g"',
        r'"\uG000"',
        r'"\u+123"',
        r'"\u-123"',
        r'"\u 123"',
        r'"\u{41}"',
        r'"\u00６1"',
        r'"\ud800\u"',
        r'"\ud800\u12"',
        r'"\U0001F600"',
        *(f'"{chr(c)}"' for c in range(0x20) if c != 0x0A),
        '"\\\t"',
        '{"\t":1}',
        # Structure.
        *[
            "[",
            "]",
            "{",
            "}",
            "[1",
            "[1,",
            "[,]",
            "[,1]",
            "[1,]",
            "[1,,2]",
            "[1:2]",
            "[[]",
            "[]]",
            "[}",
            "{]",
            "[1}]",
            "{1}",
            "{,}",
            "{:}",
            '{"a"}',
            '{"a":}',
            '{"a":1',
        ],
        *[
            '{"a":1,}',
            '{,"a":1}',
            '{"a":1,,"b":2}',
            '{"a"=1}',
            '{"a"::1}',
            '{"a",1}',
            "{a:1}",
            "{'a':1}",
            "{1:1}",
            "{null:1}",
            "{[]:1}",
            "{{}:1}",
        ],
        *[
            '{"a":1;"b":2}',
            '{"a":1}}',
            '{"a":1}{"b":2}',
            '{"a":1]}',
            '["a":1]',
            "[{}",
            '{"a":[1}',
            "{}[]",
            "[]{}",
            "[1]x",
            "{},",
            "[],",
            ",",
            ":",
            ";",
            "=",
            "*",
            "&",
            "<a/>",
        ],
        "[1 2]",
        '{"a" 1}',
        '{"a":1 "b":2}',
        '{"a" "b":1}',
        "1 2",
        "true false",
        "{} {}",
        "{} x",
        "{} # c",
        "{} // c",
        "// c",
        "/* c */ {}",
        '{"a":/* c */1}',
        "[1,...]",
        "...",
        "[\\n]",
        "\u00a0{}",
        "{}\u3000",
        "{}\u2028",
        "\u2060{}",
        "\f{}",
        "{}\v",
        "[\f1]",
        "{}\x00",
        "\x00",
        "\x1e{}",
        '{"a":1}\\n',
        "[" * 20,
        "{" * 20,
        "9" * 5000 + "x",
        "{}".encode("utf-16-le"),
        "[1]".encode("utf-16-be"),
        "{}".encode("utf-32-be"),
    ],
    "lone_surrogate": [
        r'"\ud800"',
        r'"\uDBFF"',
        r'"\udc00"',
        r'"\uDFFF"',
        r'"\ud800x"',
        r'"\ud800\ud800"',
        r'"\udc00\ud800"',
        r'"\ud83d\u0041"',
        r'"\ud83d\n"',
        r'"\ud83d\\ude00"',
        r'"\uDBFF\uE000"',
        r'[["\udead"]]',
        r'{"a":{"b":"\ud800"}}',
        r'{"\ud800":1}',
    ],
    "duplicate_key": [
        '{"a":1,"a":1}',
        '{"a":1,"b":2,"a":3}',
        '{"":1,"":2}',
        r'{"a":1,"\u0061":2}',
        r'{"\u0061":1,"\u0061":2}',
        r'{"\u00e9":1,"é":2}',
        r'{"\u00E9":1,"\u00e9":2}',
        r'{"\/":1,"/":2}',
        r'{"\t":1,"\u0009":2}',
        r'{"\"":1,"\u0022":2}',
        r'{"a":"\u0022\u0022","a":1}',
        '{"a":{"b":1,"b":2}}',
        '[{"a":1},{"a":1,"a":{}}]',
        '{"a":[],"a":{"a":1}}',
        r'{"\ud83d\ude00":1,"😀":2}',
    ],
    "bom_inside": [f"{BOM}{{}}", f" {BOM}{{}}", f"{{}}{BOM}", f"[{BOM}]", f'{{"a":{BOM}1}}', BOM, f"{BOM}{BOM}1"],
    "invalid_utf8": [
        *(b'"' + bad + b'"' for bad in (b"\x80", b"\xbf", b"\xc3", b"\xe9t\xe9", b"\xfe", b"\xff", b"\xc3\x28")),
        *(b'"' + bad + b'"' for bad in (b"\xc0\xaf", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc0\x80")),
        *(b'"' + bad + b'"' for bad in (b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80")),
        *(b'"' + bad + b'"' for bad in (b"\xe2\x82", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80")),
        b'{"\xff":1}',
        b"\xff",
        b"[\xe9]",
        b"{}\x80",
        "{}".encode("utf-16"),
        '"é"'.encode("latin-1"),
    ],
    "nesting_too_deep": ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000, '[{"a":' * 50_000],
}
REFUSED_CASES = [
    (code, document if isinstance(document, bytes) else document.encode())
    for code, documents in REFUSED.items()
    for document in documents
]


def test_there_are_enough_cases_and_none_twice() -> None:
    assert len(set(ACCEPTED)) == len(ACCEPTED) >= 90
    assert len({document for _, document in REFUSED_CASES}) == len(REFUSED_CASES) >= 180


def as_column(document: bytes) -> bytes:
    """A row with the document in a column that isn't read."""
    return b'{"instruction": "q", "further": ' + document + b', "output": "a"}'


def verdict(raw: bytes, format_name: str = "alpaca") -> str:
    parser = Parser(DatasetConfig(raw_files=("x",), format=format_name))
    try:
        parser.parse(RawRecord("f", 1, 0, raw))
    except RowProblem as problem:
        return problem.code
    return "row"


@pytest.mark.parametrize("document", ACCEPTED, ids=lambda d: ascii(d)[:40])
def test_a_document_is_taken_as_a_value_and_as_a_line(document: str) -> None:
    assert verdict(as_column(document.encode())) == "row"
    assert verdict(as_column(b" \t\r" + document.encode() + b" ")) == "row"
    try:
        assert load_object(document.encode()) == json.loads(document, parse_int=float)
    except RowProblem as problem:
        # JSON, but no object: that is another complaint than "no JSON".
        assert (problem.code, document.strip()[0] == "{") == ("wrong_type", False)  # noqa: PT017  either may be right


@pytest.mark.parametrize(("document", "text"), STRINGS.items(), ids=lambda d: ascii(d)[:40])
def test_a_string_is_read_as_what_it_says(document: str, text: str) -> None:
    raw = (
        '{"id":"a","messages":[{"role":"user","content":"q"},{"role":"assistant","content":"x"}],"meta":{"source":%s}}'
    )
    line = (raw % document).encode()
    if any(ord(c) < 32 and c not in "\t\n\r" for c in text) or "\x7f" in text:
        assert verdict(line, "messages") in ("nul_character", "control_character")
    else:
        assert decode(line).meta.source == text


@pytest.mark.parametrize(("code", "document"), REFUSED_CASES, ids=lambda d: ascii(d)[:40])
def test_a_document_is_refused_as_a_value_and_as_a_line(code: str, document: bytes) -> None:
    for format_name in FORMATS:
        assert verdict(document, format_name) == code
    assert verdict(as_column(document)) == code
    assert verdict(as_column(b"[" + document + b"]")) == code


def test_in_a_file_each_document_has_its_line_its_bytes_and_its_verdict(tmp_path: Path) -> None:
    documents = [("row", as_column(d.encode())) for d in ACCEPTED] + REFUSED_CASES
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(raw for _, raw in documents))
    found = list(read_file(path, "a"))
    assert [r.raw for r in found if not r.note] == [raw for _, raw in documents]
    assert [verdict(r.raw) for r in found] == [code for code, _ in documents]


# --- Any bytes ------------------------------------------------------------------------------------

LINES = [
    b'{"id":"a","messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}',
    b'{"id": "b", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
    b'{"instruction":"q","output":"a"}',
    b'{"prompt":"q","completion":"a"}',
    b'{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}',
    b"instruction,output",
    b"q,a",
    b'"q\n""r""",a',
    b"[]",
    b"",
    b"  ",
    b"\xef\xbb\xbf",
    b"\xff",
]
files = st.lists(st.sampled_from(LINES) | st.binary(max_size=30), max_size=12).map(b"\n".join)


@settings(max_examples=300)
@given(files, st.sampled_from([".jsonl", ".json", ".csv", ".tsv"]), st.sampled_from(list(FORMATS)))
def test_of_any_bytes_every_record_is_kept_a_duplicate_or_in_quarantine_verbatim(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str, format_name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    parser = Parser(DatasetConfig(raw_files=("x",), format=format_name))
    counts = Counts()
    quarantined: list[bytes] = []

    def quarantine(record: RawRecord, problem: RowProblem) -> None:
        line = msgspec.json.decode(msgspec.json.encode(quarantine_line(record, problem)))
        raw = base64.b64decode(line["raw_base64"]) if "raw_base64" in line else line["raw"].encode()
        assert content[line["offset"] : line["offset"] + len(raw)] == raw == record.raw
        assert line["code"] in REASONS
        quarantined.append(raw)

    try:
        records = list(read_file(path, "any"))
    except DataError:
        assert suffix != ".jsonl"
        return
    found = list(clean(records, parser.parse_many, quarantine, counts))
    assert counts.rows_in == sum(not record.note for record in records)
    assert counts.rows_in == counts.kept + counts.duplicates + counts.quarantined
    assert counts.quarantined == len(quarantined)
    assert counts.kept == sum(not row.is_duplicate for row in found)
    if suffix == ".jsonl":
        blank = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if not line.strip(b" \t\r")]
        assert counts.rows_in == len(content.removeprefix(b"\xef\xbb\xbf").split(b"\n")) - len(blank)


@settings(max_examples=300)
@given(st.sampled_from(LINES[:5]), st.integers(0, 120), st.integers(0, 4), st.binary(max_size=4))
def test_a_changed_line_is_a_row_or_has_a_code(line: bytes, at: int, cut: int, put: bytes) -> None:
    changed = line[:at] + put + line[at + cut :]
    for format_name in FORMATS:
        assert verdict(changed, format_name) in {"row", *REASONS}
