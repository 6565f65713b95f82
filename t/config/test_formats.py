"""The three formats: the location of each value, and what cannot be read at all."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pfxhttpd.config import config_file
from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.node import MAX_DEPTH, Node, dotted

Refused = Callable[..., list[str]]


def locations(text: str, form: str) -> dict[str, tuple[int, int, int, int]]:
    """path -> line and column of the key, line and column of the value."""
    found: dict[str, tuple[int, int, int, int]] = {}

    def walk(node: Node) -> None:
        found[dotted(node.path)] = (*node.key_location[1:], *node.location[1:])
        for _, child in node.children():
            walk(child)

    root, problems = config_file.parse(text, "f", form)
    assert not problems
    walk(root)
    del found[""]
    return found


def reason(text: str | bytes, form: str = "yaml") -> str:
    """The one problem of a text that cannot be read, as a line."""
    with pytest.raises(ConfigError) as caught:
        config_file.parse(config_file.decode(text.encode() if isinstance(text, str) else text, "f"), "f", form)
    (problem,) = caught.value.problems
    assert "\n" not in str(problem)
    return str(problem)


def test_yaml_locations() -> None:
    text = 'server:\n  listen:\n  - kind: x\n    "port":   5\n  flow: {a: [1, two]}\n'
    assert locations(text, "yaml") == {
        "server": (1, 1, 2, 3),
        "server.listen": (2, 3, 3, 3),
        "server.listen[0]": (3, 5, 3, 5),
        "server.listen[0].kind": (3, 5, 3, 11),
        "server.listen[0].port": (4, 5, 4, 15),
        "server.flow": (5, 3, 5, 9),
        "server.flow.a": (5, 10, 5, 13),
        "server.flow.a[0]": (5, 14, 5, 14),
        "server.flow.a[1]": (5, 17, 5, 17),
    }


def test_json_locations() -> None:
    text = '{"server":\n\t{"a\\"b": [1, {"two" : 2.5e0}, "]"],\n  "\u00fc": {}, "x": []}}'
    assert locations(text, "json") == {
        "server": (1, 2, 2, 2),
        'server."a\\"b"': (2, 3, 2, 11),
        'server."a\\"b"[0]': (2, 12, 2, 12),
        'server."a\\"b"[1]': (2, 15, 2, 15),
        'server."a\\"b"[1].two': (2, 16, 2, 24),
        'server."a\\"b"[2]': (2, 32, 2, 32),
        'server."\u00fc"': (3, 3, 3, 8),
        "server.x": (3, 12, 3, 17),
    }


TOML = '''\
# a comment
top = 1
[server] # and one here
"quo.ted" = """
[not.a.header]
x = 1"""
a.b = [ 1, # one
  "]", { c = '#', d.e = 2 } ]
[[server.listen]]
port = 5
[server.listen.worker_pool]
max = 0x10
[[server.listen]]
port = 1979-05-27 07:32:00
[ other . 'x' ]
'''


def test_toml_locations() -> None:
    assert locations(TOML, "toml") == {
        "top": (2, 1, 2, 7),
        "server": (3, 2, 3, 2),
        'server."quo.ted"': (4, 1, 4, 13),
        "server.a": (7, 1, 7, 1),
        "server.a.b": (7, 1, 7, 7),
        "server.a.b[0]": (7, 9, 7, 9),
        "server.a.b[1]": (8, 3, 8, 3),
        "server.a.b[2]": (8, 8, 8, 8),
        "server.a.b[2].c": (8, 10, 8, 14),
        "server.a.b[2].d": (8, 19, 8, 19),
        "server.a.b[2].d.e": (8, 19, 8, 25),
        "server.listen": (9, 3, 9, 3),
        "server.listen[0]": (9, 3, 9, 3),
        "server.listen[0].port": (10, 1, 10, 8),
        "server.listen[0].worker_pool": (11, 2, 11, 2),
        "server.listen[0].worker_pool.max": (12, 1, 12, 7),
        "server.listen[1]": (13, 3, 13, 3),
        "server.listen[1].port": (14, 1, 14, 8),
        "other": (15, 3, 15, 3),
        "other.x": (15, 3, 15, 3),
    }


def test_a_number_remembers_how_it_was_written() -> None:
    for text, form in (("a: 0x10", "yaml"), ('{"a": 1.0}', "json"), ("a = 1_000", "toml")):
        root, _ = config_file.parse(text, "f", form)
        assert root.get("a").text == text.strip("}").split()[-1]


def test_yaml_aliases_and_merge_keys() -> None:
    text = """\
one: &one {a: 1, b: 2}
two: {<<: *one, b: 3}
three: {b: 4, <<: [{a: 5, c: 6}, *one]}
four: *one
"""
    root, problems = config_file.parse(text, "f", "yaml")
    assert not problems
    assert root.plain() == {
        "one": {"a": 1, "b": 2},
        "two": {"a": 1, "b": 3},
        "three": {"a": 5, "b": 4, "c": 6},
        "four": {"a": 1, "b": 2},
    }
    assert root.get("two", "a").location[1:] == (1, 15), "a merged value keeps its location"


def test_yaml_types() -> None:
    text = "{a: yes, b: off, c: 0x1F, d: 1e3, e: ~, f: 2020-01-01, g: 1.5, h: '5', i: !!str 5, j: =, k: 12:34, l: .inf, 1: m, yes: n}"
    root, problems = config_file.parse(text, "f", "yaml")
    assert not problems
    assert root.plain() == {
        "a": True,
        "b": False,
        "c": 31,
        "d": "1e3",
        "e": None,
        "f": "2020-01-01",
        "g": 1.5,
        "h": "5",
        "i": "5",
        "j": "=",
        "k": 754,
        "l": float("inf"),
        "1": "m",
        "yes": "n",
    }


@pytest.mark.parametrize(
    "text, form, line",
    [
        ("server:\n  a: 1\n  b: 2\n  a: 3\n", "yaml", "4:3: server.a: given twice; the first is in line 2"),
        ("server: {a: 1}\nserver: 2\n", "yaml", "2:1: server: given twice; the first is in line 1"),
        ("server: &x {a: 1, a: 2}\ny: *x\nz: {<<: *x}", "yaml", "1:19: server.a: given twice; the first is in line 1"),
        ('{"server": {"a": 1,\n "a": 1}}', "json", "2:2: server.a: given twice; the first is in line 1"),
        ('{"a": 1,\n "\\u0061": 1}', "json", "2:2: a: given twice; the first is in line 1"),
        ("[server]\na = 1\n[x]\n[server]\n", "toml", "4:2: server: given twice; the first is in line 1"),
        ('[server]\na = 1\nb = 1\n"a" = 2\n', "toml", "4:1: server.a: given twice; the first is in line 2"),
        ("[server]\nx = {a.b = 1,\t'a'.b = 2}\n", "toml", "2:15: server.x.a.b: given twice; the first is in line 2"),
        (
            "[[server]]\na = 1\n[[server]]\na = 1\n[server.b]\n[server.b]",
            "toml",
            "6:2: server[1].b: given twice; the first is in line 5",
        ),
    ],
)
def test_a_key_given_twice(text: str, form: str, line: str, refused: Refused) -> None:
    twice = [problem for problem in refused(text, form) if "twice" in problem]
    assert twice == [line]


def test_every_key_given_twice_is_reported_in_toml(refused: Refused) -> None:
    assert len(refused("[server]\na = 1\na = 2\nb = 1\nb = 2\n", "toml")) == 2


@pytest.mark.parametrize(
    "text, form, line",
    [
        (
            "server:\n\tlisten: 5\n",
            "yaml",
            "f:2:1: not valid YAML: a character that cannot begin a value here (quote it; indent with spaces, not tabs)",
        ),
        (
            "server: a: b\n",
            "yaml",
            "f:1:10: not valid YAML: a colon is not allowed here (is the indentation right, or are quotes missing?)",
        ),
        (
            "server:\n  - a\n b: c\n",
            "yaml",
            "f:3:2: not valid YAML: this does not belong here (is the indentation right, or are quotes missing?)",
        ),
        (
            "a:\n  b: 1\n  c:1\nd: 2\n",
            "yaml",
            "f:4:1: not valid YAML: a key without a colon before this line (is a space missing after the colon?)",
        ),
        ("a: 'open\n\nend", "yaml", "f:3:4: not valid YAML: found unexpected end of stream"),
        (
            "a: *secret\n",
            "yaml",
            "f:1:4: not valid YAML: an undefined alias (a value that begins with * must be in quotes)",
        ),
        ("a: 1\n---\nb: 1\n", "yaml", "f:2:1: not valid YAML: a second document begins here; only one is allowed"),
        ("a: 1\nb: \x07\n", "yaml", "f:2:4: not valid YAML: the character U+0007 is not allowed"),
        ('a: "\\UFFFFFFFF"\n', "yaml", "f:1:7: not valid YAML: an escape that names no character"),
        ('{"a": 1, ,', "json", "f:1:10: not valid JSON: expecting property name enclosed in double quotes"),
        ('{"a": 1\n "b": 2}', "json", "f:2:2: not valid JSON: expecting ',' delimiter"),
        ("{'a': 1}", "json", "f:1:2: not valid JSON: expecting property name enclosed in double quotes"),
        ('{"a": "x\ny"}', "json", "f:1:9: not valid JSON: invalid control character at"),
        ('{"a":\n NaN}', "json", "f:2:2: not valid JSON: NaN is no value"),
        ('{"a": 1} x', "json", "f:1:10: not valid JSON: extra data"),
        ("[server\na = 1", "toml", "f:1:8: not valid TOML: expected ']' at the end of a table declaration"),
        ("a = 1\nb 2", "toml", "f:2:3: not valid TOML: expected '=' after a key in a key/value pair"),
        ('a = "', "toml", "f:1:6: not valid TOML: unterminated string"),
        ("a = 'x\n'", "toml", "f:1:7: not valid TOML: found invalid character '\\n'"),
        ("", "yaml", "f:1:1: the file is empty"),
        ("# nothing\n", "yaml", "f:1:1: the file is empty"),
        ("  \n", "json", "f:1:1: the file is empty"),
        ("# nothing\n", "toml", "f:1:1: the file is empty"),
        ("- a\n", "yaml", "f:1:1: expected a mapping of settings, such as `server:`"),
        ("\n  [1]", "json", "f:2:3: expected a mapping of settings, such as `server:`"),
        (b"ok: 1\nx: \xc3\xbc\xff\n", "yaml", "f:2:5: not UTF-8 text"),
        (b"ok: 1\nx: a\0b\n", "yaml", "f:2:5: holds a NUL byte"),
        ("a = " + "9" * 5000, "toml", "f:1:1: not valid TOML: a number with too many digits"),
    ],
)
def test_what_cannot_be_read_gets_one_line(text: str | bytes, form: str, line: str) -> None:
    assert reason(text, form) == line


@pytest.mark.parametrize(
    "form, opening, closing",
    [
        ("yaml", "a: " + "[" * 2000, ""),
        ("yaml", "a: " + "{x: " * MAX_DEPTH, ""),
        ("yaml", "- " * 2000 + "a", ""),
        ("json", '{"a": ' + "[" * 100_000, ""),
        ("json", '{"a": ' * (MAX_DEPTH + 1), "}" * (MAX_DEPTH + 1)),
        ("toml", "a = " + "[" * 5000, "]" * 5000),
        ("toml", "a = " + "[" * (MAX_DEPTH + 1), "]" * (MAX_DEPTH + 1)),
        ("toml", "a = " + "{b = " * 5000, "}" * 5000),
        ("toml", "a." * 500_000, "a = 1"),
        ("toml", "[" + "a." * 500_000, "a]"),
    ],
)
def test_deep_nesting_gets_one_line(form: str, opening: str, closing: str) -> None:
    assert f"not valid {form.upper()}: nested more than {MAX_DEPTH} levels deep" in reason(opening + closing, form)


@pytest.mark.parametrize(
    "form, text",
    [
        ("json", '"' * 1_000_000),
        ("json", '"\\' * 500_000),
        ("json", '["' * 500_000),
        ("toml", "a = " + '"' * 1_000_001),
        ("toml", 'a = """' + "\\" * 999_999),
    ],
)
def test_a_string_without_an_end_takes_no_quadratic_time(form: str, text: str) -> None:
    assert f"not valid {form.upper()}: " in reason(text, form)


def test_the_deepest_allowed_nesting_is_read() -> None:
    deep = MAX_DEPTH - 2
    for form, text in (
        ("yaml", "a: " + "[" * deep + "]" * deep),
        ("json", '{"a": ' + "[" * deep + "]" * deep + "}"),
        ("toml", "a = " + "[" * deep + "]" * deep),
    ):
        config_file.parse(text, "f", form)


def test_aliases_that_expand_too_far() -> None:
    expanding = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    assert "more than 50000 values, aliases expanded" in reason(expanding)
    assert "nested more than" in reason("a: &a [*a]")
    assert "nested more than" in reason("a: &a {b: *a}")
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 100))
    assert "nested more than" in reason(chain)


@pytest.mark.parametrize(
    "value",
    [
        "!python/object:os.system x",
        "!!python/name:os.system ''",
        "!!binary aGk=",
        "!!set {a}",
        "!!omap [a: 1]",
        "!secret",
        "!!int abc",
        "!!bool maybe",
        "!!int ''",
    ],
)
def test_no_tag_constructs_anything(value: str, refused: Refused) -> None:
    text = f"server:\n  listen: [{{kind: socket_map, name: a, port: 1}}]\n  chroot: {value}\nsocket_maps: {{a: {{target: 'http://h/', value_field: v}}}}\n"
    (line,) = refused(text)
    assert line.startswith("3:11: server.chroot: ")


@pytest.mark.parametrize("text", ["{? [a] : b}", "{<<: 5}", "{<<: [5]}", "{<<: !!set {a}, b: 1}"])
def test_yaml_keys_that_are_no_names_are_reported(text: str, refused: Refused) -> None:
    assert refused(f"server: {text}\n")[0].startswith("1:")


@pytest.mark.parametrize(
    "form, text",
    [
        ("json", '{"server": {"chroot": "\\ud800"}}'),
        ("json", '{"server": {"chroot": "/\\u0000"}}'),
        ("yaml", 'server: {"\\ud800": 1}'),
        ("yaml", 'server: {chroot: "\\0"}'),
        ("toml", 'server = {chroot = "\\u0000"}'),
    ],
)
def test_a_text_with_nul_or_half_a_surrogate_pair_is_refused(form: str, text: str, refused: Refused) -> None:
    assert any("must not hold U+0000 or half a surrogate pair" in line for line in refused(text, form))


@pytest.mark.parametrize("key, value", [("a", "\ud800:x"), ("a", "\ud800"), ("\ud800", "u:p"), ("a\0", "u:p")])
def test_such_a_text_is_reported_once_and_causes_no_other_problem(key: str, value: str, refused: Refused) -> None:
    entry = {"target": "http://h/", "value_field": "v", "http_auth_basic": value}
    server = {"listen": [{"kind": "socket_map", "name": "a", "port": 1}]}
    (line,) = refused(json.dumps({"server": server, "socket_maps": {key: entry}}), "json")
    assert line.endswith("must not hold U+0000 or half a surrogate pair")


def test_a_toml_date_is_not_a_text(refused: Refused) -> None:
    text = '[server]\nchroot = 1979-05-27\n[[server.listen]]\nkind = "socket_map"\nname = "a"\nport = 1\n[socket_maps.a]\ntarget = "http://h/"\nvalue_field = "v"\n'
    assert refused(text, "toml") == ["2:10: server.chroot: expected an absolute path, not a date"]
