"""A graph's file: YAML and JSON are read as they were meant, or refused with file, line and column."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hotmesh import _graph_file
from hotmesh._graph_file import load
from hotmesh.errors import GraphError, HotMeshError, InvalidArgumentError, PayloadTooLargeError
from support.crash import python_path


@pytest.fixture(params=["libyaml", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers of PyYAML: which one there is depends on the machine."""
    if request.param == "python":
        monkeypatch.delattr(yaml, "CBaseLoader", raising=False)
    elif not hasattr(yaml, "CBaseLoader"):
        pytest.skip("PyYAML has no libyaml here")


def faults(source: Any) -> list[str]:
    """What is wrong with a document: line:column path: reason."""
    with pytest.raises(GraphError) as raised:
        load(source)
    assert raised.value.faults
    return [
        f"{fault['line']}:{fault['column']} {fault['path']}: {fault['reason']}"
        for fault in raised.value.faults
    ]


def value(word: str) -> Any:
    """What a word in YAML is read as."""
    return load(f"data:\n  x: {word}\n").document["data"]["x"]


# --- what is a text, what a file ------------------------------------------------------------------


def test_a_file_a_text_and_a_dict_are_the_same_document(tmp_path: Path) -> None:
    text = "app:\n  id: orders\n  version: '1'\n  graphs: []\n"
    expected = {"app": {"id": "orders", "version": "1", "graphs": []}}
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "a.json").write_text(json.dumps(expected))
    assert load(text).document == expected
    assert load(tmp_path / "a.yaml").document == expected
    assert load(str(tmp_path / "a.json")).document == expected
    assert load(json.dumps(expected)).document == expected
    assert load(expected).document == expected
    assert load("app: {id: orders, version: '1', graphs: []}").document == expected
    assert load("{app: {id: orders, version: '1', graphs: []}}").document == expected


def test_a_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "order.yaml").write_text("activities: {}\n")
    monkeypatch.chdir(tmp_path)
    assert load("./order.yaml").name == "order.yaml"
    with pytest.raises(InvalidArgumentError, match=r"there is no file 'other\.yaml'"):
        load("./other.yaml")


@pytest.mark.parametrize("source", ["", ".", "a\x00b", "x" * 5000, 7, None, b"app:"])
def test_what_names_no_file_is_refused(source: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        load(source)


def test_a_large_file_is_not_even_read(tmp_path: Path) -> None:
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(_graph_file.FILE_LIMIT + 1)
    with pytest.raises(PayloadTooLargeError):
        load(tmp_path / "large.yaml")


def test_a_file_that_is_no_utf8_is_refused_where_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"activities:\n  a: caf\xe9\n")
    assert faults(tmp_path / "a.yaml") == ["2:9 : this is no UTF-8"]
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfactivities: {}\n")
    assert load(tmp_path / "a.yaml").document == {"activities": {}}


def test_without_the_library_yaml_says_what_to_install_and_json_goes() -> None:
    code = (
        "import sys; sys.modules['yaml'] = None\n"
        "from hotmesh import _graph_file as g, errors\n"
        "print(g.load('{\"activities\": {}}').document)\n"
        "try: g.load('activities: {}\\n')\n"
        "except errors.HotMeshError as error: print(error, '|', error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": python_path()},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "{'activities': {}}",
        "a graph in YAML needs the library PyYAML | "
        "pip install 'hotmesh[yaml]', or write the graph as JSON",
    ]


# --- words that YAML reads in two ways ------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("0", 0),
        ("-7", -7),
        ("12345678901234567890", 12345678901234567890),
        ("1.5", 1.5),
        ("1.50", 1.5),
        ("-.5", -0.5),
        ("1.5e3", 1500.0),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01T10:00:00Z", "2024-01-01T10:00:00Z"),
        ("12:30", "12:30"),
        ("190:20:30", "190:20:30"),
        ("1.10.2", "1.10.2"),
        ("y", "y"),
        ("No way", "No way"),
        ("=", "="),
        ("'no'", "no"),
        ('"1.10"', "1.10"),
        ("'08'", "08"),
        ("'{t1.output.data.a}'", "{t1.output.data.a}"),
        (r'"\u00e9\n"', "é\n"),
    ],
)
@pytest.mark.usefixtures("parser")
def test_a_word_is_read_as_its_author_meant_it(word: str, expected: Any) -> None:
    found = value(word)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "word",
    [
        *("no", "Yes", "on", "OFF", "NO"),
        *("08", "010", "-017", "007.5", "0x1F", "0o17", "0b11", "1_000", "1_0.5"),
        *("1e3", "12e5", "+1", "+49301234", ".inf", "-.Inf", ".NaN"),
    ],
)
@pytest.mark.usefixtures("parser")
def test_a_word_that_can_be_two_things_is_refused_with_its_place(word: str) -> None:
    [fault] = faults(f"data:\n  x: {word}\n")
    assert fault.startswith(f"2:6 data.x: {word} without quotes is ")
    assert f"'{word}' in quotes" in fault
    assert value(f"'{word}'") == word


@pytest.mark.parametrize("word", ["9" * 500, "1.0e999"])
def test_a_number_that_nobody_can_keep_is_refused(word: str) -> None:
    [fault] = faults(f"data:\n  x: {word}\n")
    assert fault.startswith("2:6 data.x: no number of this size can be kept")
    [fault] = faults(f'{{"x": {word}}}')
    assert fault.startswith("1:7 x: no number of this size can be kept")


@pytest.mark.usefixtures("parser")
def test_all_such_words_are_told_at_once() -> None:
    found = faults("a: no\nb:\n  - 1\n  - 08\nc: !!str 5\nd: {e: off}\na: 1\n")
    assert [each.split(":")[0] + each.split(" ")[1] for each in found] == [
        "1a:", "4b[1]:", "5c:", "6d.e:", "7a:",
    ]  # fmt: skip


def test_lines_may_end_as_windows_ends_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"activities:\r\n  t:\r\n    type: trigger\r\n    x: no\r\n")
    assert faults(tmp_path / "a.yaml")[0].startswith("4:8 activities.t.x: no without quotes")
    assert load("a:\r\n  - 'b'\r\n").document == {"a": ["b"]}


def test_keys_are_what_is_written() -> None:
    document = load("data:\n  on: 1\n  no: 2\n  202: 3\n  1.10: 4\n  null: 5\n  08: 6\n").document
    assert list(document["data"]) == ["on", "no", "202", "1.10", "null", "08"]


@pytest.mark.parametrize(
    ("word", "expected"), [("1", "1"), ("'1.10'", "1.10"), ("20", "20"), ("v2", "v2")]
)
def test_a_version_is_a_text(word: str, expected: str) -> None:
    assert load(f"app:\n  id: a\n  version: {word}\n").document["app"]["version"] == expected


@pytest.mark.parametrize("word", ["1.10", "1.0", "true", "2.", "~"])
def test_a_version_that_could_be_two_is_refused(word: str) -> None:
    [fault] = faults(f"app:\n  id: a\n  version: {word}\n")
    assert fault.startswith("3:12 app.version: version is a text: write '")
    if word == "1.10":
        assert "write '1.10' in quotes" in fault
        assert "write '1.10' in quotes" in faults('{"app": {"version": 1.10}}')[0]


def test_numbers_of_json_are_only_numbers() -> None:
    assert load('{"a": [1e3, 1.10, -0, 0.5, 10]}').document == {"a": [1000.0, 1.1, 0, 0.5, 10]}


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", '3:1 a: the key "a" is in line 1 already'),
        ("a:\n  1: x\n  '1': y\n", '3:3 a.1: the key "1" is in line 2 already'),
        ("a: !!python/object/apply:os.system ['true']\n", "1:4 a: tags are not taken"),
        ("a: !x 1\n", "1:4 a: tags are not taken"),
        ("!!str a: 1\n", "1:1 : tags are not taken"),
        ("a:\n  - *b\n", "2:5 a[0]: nothing before it has the anchor &b"),
        ("a: &b [1, *b]\n", "1:11 a[1]: the alias *b stands inside of itself"),
        ("a: &b {c: *b}\n", "1:11 a.c: the alias *b stands inside of itself"),
        ("a: 1\n<<: 5\n", "2:5 : << takes a mapping"),
        ("? [a, b]\n: 1\n", "1:3 : a key must be a text"),
        ("{a}: 1\n", "1:1 : a key must be a text"),
        ("- a\n- b\n", "1:1 : a graph is a mapping"),
        ("just words\nand more\n", "1:1 : a graph is a mapping"),
        ("# nothing\n\n", "there is no document in it"),
        ("--- ~\n", "1:5 : a graph is a mapping"),
        ("a: 1\n---\nb: 2\n", "2:1 : a second document begins here"),
        ("a: {t1.output.data.x}\n", "1:5 a: without quotes this is a mapping"),
        ("a: [{$self.output.data.x}, 1]\n", "a reference is written '{$self.output.data.x}'"),
        ('a: "x\\0y"\n', "1:4 a: a text with the character NUL"),
        ("a: \ud800\n", "1:4 : half of a surrogate pair"),
        ('{"a": "\\u0000"}', "1:7 a: a text with the character NUL"),
        ('{"a": "\\ud83d"}', "1:7 a: a text with half of a surrogate pair"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', '1:24 b.c: the key "c" is in line 1 already'),
    ],
)
@pytest.mark.usefixtures("parser")
def test_what_a_graph_must_not_hold_is_refused_with_its_place(text: str, told: str) -> None:
    [fault] = faults(text)
    assert told in fault


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        ("a:\n\t- 1\n", "2:1", "a tab; lines are indented by spaces"),
        ("a:\n  - b\n c: d\n", "3:2", "this is no YAML"),
        ("a: [1, 2\n", "2:1", "this is no YAML"),
        ("a: 'x\n", "2:1", "this is no YAML"),
        ("a: b: c\n", "1:5", "a text with a colon and a space needs quotes"),
        ("cron: @hourly\n", "1:7", "a text that begins with * & ! % @ or ` needs quotes"),
        ('a: "\\q"\n', "1:5", "a text in single quotes has no escapes"),
        ("a: {t}}\n", "1:7", "this is no YAML"),
        ("a: \x01\n", "1:4", "U+0001"),
        ("a: x\nb: \x00\n", "2:4", "U+0000"),
        ('{"a": [1,, 2]}', "1:10", "this is no JSON: a value is missing"),
        ('{"a": 1,}', "1:9", "a key in double quotes is missing"),
        ('{"a" 1}', "1:6", "a colon is missing"),
        ('{"a": [1 2]}', "1:10", "a comma or ] is missing"),
        ('{"a": "x', "1:7", "this is no JSON"),
        ('{"a": 1} x', "1:10", "there is more after the end"),
        ('{"a": NaN}', "1:7", "a value is missing"),
        ('{"a": 01}', "1:7", "a value is missing"),
        ('{\n "a": tru}', "2:7", "a value is missing"),
    ],
)
@pytest.mark.usefixtures("parser")
def test_broken_text_is_one_fault_with_line_and_column(text: str, place: str, told: str) -> None:
    [fault] = faults(text)
    line, column = (int(part) for part in fault.split(" ")[0].split(":"))
    expected = tuple(int(part) for part in place.split(":"))
    assert told in fault
    assert line == expected[0]
    assert abs(column - expected[1]) <= 1  # the two parsers point at a bracket or behind it


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def test_aliases_that_multiply_are_stopped() -> None:
    assert load(laughs(3)).document["a2"] == [[["x"] * 9] * 9] * 9
    [fault] = faults(laughs(12))
    assert "with its aliases and references the document has more than" in fault


def test_merges_that_multiply_are_stopped() -> None:
    keys = ", ".join(f"k{n}: 1" for n in range(200))
    [fault] = faults(f"a: &a {{{keys}}}\nb: {{<<: [{', '.join(['*a'] * 600)}]}}\n")
    assert "<< brings more than 100,000 keys" in fault


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 5000 + "\n", "{a: " * 5000, '{"a":' * 5000, "- " * 5000 + "\n"]
)
@pytest.mark.usefixtures("parser")
def test_bottomless_nesting_is_stopped(text: str) -> None:
    [fault] = faults(text)
    assert "nested deeper than 100 levels" in fault


def test_aliases_do_not_get_around_the_depth() -> None:
    lines = ["a0: &a0 " + "[" * 40 + "]" * 40]
    lines += [f"a{n}: &a{n} " + "[" * 40 + f"*a{n - 1}" + "]" * 40 for n in range(1, 4)]
    [fault] = faults("\n".join(lines) + "\n")
    assert "nested deeper than 100 levels" in fault


# --- anchors and merges that are good -------------------------------------------------------------


@pytest.mark.usefixtures("parser")
def test_anchors_and_merges_work() -> None:
    text = (
        "base: &base {type: worker, retry: {'500': [3]}}\n"
        "other: &other {type: hook, title: x}\n"
        "a: {<<: *base, topic: t}\n"
        "b:\n  <<: [*base, *other]\n  type: await\n"
        "c: [*base, *base]\n"
    )
    document = load(text).document
    assert document["a"] == {"topic": "t", "type": "worker", "retry": {"500": [3]}}
    assert document["b"] == {"type": "await", "retry": {"500": [3]}, "title": "x"}
    assert document["c"] == [document["base"]] * 2


def test_keys_without_values_are_no_references_otherwise() -> None:
    text = "a: {b: , 'c.d': null, e.f: 1}\nb:\n  c.d:\n  e: {f}\n"
    assert load(text).document == {
        "a": {"b": None, "c.d": None, "e.f": 1}, "b": {"c.d": None, "e": {"f": None}}
    }  # fmt: skip


# --- $ref -----------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_yaml", ".yaml").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "main.yaml"


def test_references_bring_in_other_files_relative_to_their_own(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main_yaml="app:\n  id: a\n  version: '1'\n  graphs:\n    - $ref: ./graphs/one.yaml\n",
        graphs__one_yaml="subscribes: one\ninput:\n  schema:\n    $ref: ../schemas/all.json#/in\n",
        schemas__all_json='{"in": {"type": "object", "description": "what comes"}}',
    )
    found = load(main)
    assert found.document["app"]["graphs"] == [
        {
            "subscribes": "one",
            "input": {"schema": {"type": "object", "description": "what comes"}},
        }
    ]
    place = found.place("app.graphs[0].input.schema.type")
    assert place is not None
    assert str(place) == f"{tmp_path}/schemas/all.json:1:9"
    assert str(found.place("app.graphs[0].subscribes")) == f"{tmp_path}/graphs/one.yaml:1:1"


def test_a_reference_may_name_a_place_in_its_own_document() -> None:
    text = (
        "schemas:\n  a/b: {type: string}\nactivities:\n  t:\n    $ref: '#/schemas/a~1b'\n"
        "    title: mine\n  u: {$ref: '#/list/1'}\nlist: [1, 2]\n"
    )
    document = load(text).document
    assert document["activities"] == {"t": {"type": "string", "title": "mine"}, "u": 2}


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("https://example.com/x.yaml", "$ref names files, not addresses"),
        ("file:///etc/passwd", "$ref names files, not addresses"),
        ("//example.com/x.yaml", "$ref names files, not addresses"),
        ("/etc/passwd", "$ref is relative to the file"),
        ("~/x.yaml", "$ref is relative to the file"),
        ("./missing.yaml", "there is no file"),
        ("./other.yaml#/nothing", "there is no /nothing in"),
        ("./other.yaml#/a/7", "there is no /a/7 in"),
        ("main.yaml", "$ref leads back to itself"),
        ("#", "$ref leads back to itself"),
        ("./loop.yaml", "$ref leads back to itself"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(tmp_path: Path, ref: str, told: str) -> None:
    main = write(
        tmp_path,
        main_yaml=f"a:\n  b:\n    $ref: '{ref}'\n",
        other_yaml="a: [1]\n",
        loop_yaml="again:\n  $ref: './main.yaml#/a'\n",
    )
    [fault] = faults(main)
    assert told in fault


def test_faults_in_a_file_that_is_referred_to_name_that_file(tmp_path: Path) -> None:
    main = write(tmp_path, main_yaml="a:\n  $ref: other.yaml\n", other_yaml="x:\n  - 1\n  - no\n")
    with pytest.raises(GraphError) as raised:
        load(main)
    assert str(raised.value).startswith(f"{tmp_path}/other.yaml:3:5: x[1]: no without quotes is")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a:\n  $ref: other.yaml\n", "needs a file that it stands in"),
        ("a:\n  $ref: 5\n", "$ref is a text"),
        ("a:\n  $ref: '#/l'\n  b: 1\nl: [1]\n", "beside this $ref nothing may stand"),
    ],
)
def test_a_reference_that_cannot_be_followed_is_refused(text: str, told: str) -> None:
    [fault] = faults(text)
    assert told in fault


def test_references_that_multiply_are_stopped() -> None:
    lines = ["a0: [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: [" + ", ".join([f"{{$ref: '#/a{n - 1}'}}"] * 9) + "]" for n in range(1, 12)]
    [fault] = faults("\n".join(lines) + "\n")
    assert "the document has more than" in fault


# --- places ---------------------------------------------------------------------------------------

DOCUMENT = """\
app:
  id: orders
  graphs:
    - subscribes: order.requested
      activities:
        t1:
          type: trigger
      hooks:
        order.approved:
          - to: t1
"""


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("app.graphs[0].activities.t1.type", "7:11"),
        ("app.graphs.0.activities.t1.type", "7:11"),
        ("/app/graphs/0/activities/t1/type", "7:11"),
        ("$.app.graphs[0].activities.t1", "6:9"),
        ('app.graphs[0].hooks["order.approved"][0].to', "10:13"),
        ("app.graphs[0].activities.t1.topic", "6:9"),
        ("app.graphs[0].transitions", "4:7"),
        ("elsewhere", "1:1"),
        ("", "1:1"),
    ],
)
def test_each_path_has_a_place_or_that_of_what_is_around_it(path: str, place: str) -> None:
    found = load(DOCUMENT).place(path)
    assert found is not None
    assert f"{found.line}:{found.column}" == place


def test_what_the_database_finds_gets_its_place() -> None:
    told = GraphError.of([{"path": "app.graphs[0].activities.t1.type", "reason": "is unknown"}])
    located = load(DOCUMENT).located(told)
    [fault] = located.faults
    assert (fault["file"], fault["line"], fault["column"]) == ("<text>", 7, 11)
    assert str(located) == "<text>:7:11: app.graphs[0].activities.t1.type: is unknown"
    assert load({"app": {}}).located(told).faults == told.faults


def test_a_graph_without_its_app_has_the_paths_that_were_written() -> None:
    told = GraphError.of([
        {"path": "app.graphs[0].activities.t.type", "reason": "is unknown"},
        {"path": "app.graphs[0]", "reason": "is odd"},
    ])  # fmt: skip
    located = load("subscribes: x\nactivities:\n  t:\n    type: y\n").located(told)
    assert str(located).splitlines()[1:] == [
        "  <text>:4:5: activities.t.type: is unknown", "  <text>:1:1: is odd",
    ]  # fmt: skip


def test_many_faults_are_one_message_of_many_lines() -> None:
    told = GraphError.of([{"path": f"a[{n}]", "reason": "is bad"} for n in range(50)])
    assert str(told).splitlines()[:2] == ["the graph has 50 faults", "  a[0]: is bad"]
    assert str(told).endswith("and 30 more")
    assert len(told.faults) == 50


# --- anything at all ------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def without_references(value: Any) -> bool:
    return "$ref" not in json.dumps(value)


@given(VALUES.filter(without_references), st.sampled_from([None, 2]), st.booleans())
def test_json_is_read_as_the_standard_library_reads_it(
    value: Any, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps({"data": value}, indent=indent, ensure_ascii=ascii_only)
    assert load(text).document == json.loads(text)


@given(VALUES.filter(without_references))
def test_yaml_in_quotes_is_read_as_its_library_reads_it(value: Any) -> None:
    text = yaml.safe_dump({"data": value}, default_style='"', allow_unicode=True)
    for tag in ("!!int ", "!!float ", "!!null ", "!!bool "):
        text = text.replace(tag, "")
    assert load(text + "\n").document == yaml.load(text, yaml.BaseLoader)


@given(st.text(alphabet="ab:-[]{},&*!?|>'\"#%@ \n\t$<~1.0é\x00\ud800", max_size=60))
def test_no_text_gets_past_the_reader_with_another_exception(text: str) -> None:
    for source in (text + "\n", "{" + text):
        try:
            found = load(source)
        except HotMeshError:
            continue
        json.dumps(found.document, allow_nan=False).encode()
