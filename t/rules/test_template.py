"""Templates: what may stand in one, and that nothing a client sends breaks out of its place."""

from __future__ import annotations

import json
import ntpath
import posixpath
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP, Entry
from pfxhttpd.rules.template import TemplateError, check, payload_of, target_of

KEY = 'a"b\\c\n{{ .Key }}%s'
ATTRIBUTES = {"request": "smtpd_access_policy", "sender": 'x"@example.org', "z": "", "a": "grün"}
AS_JSON = '{"request":"smtpd_access_policy","sender":"x\\"@example.org","z":"","a":"grün"}'
Headers = tuple[tuple[str, str], ...]
PLAIN = (("Content-Type", "text/plain"),)
XML = (("Content-Type", "application/xml"),)
FORM = (("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),)
ANY_TEXT = some.text(some.characters(exclude_categories=()), max_size=40)


def lookup(payload: str = "", target: str = "http://h/", **more: object) -> Entry:
    return Entry(SOCKET_MAP, "demo", target, payload=payload, **more)


def request(payload: str = "", target: str = "http://h/", **more: object) -> Entry:
    return Entry(POLICY_SERVICE, "demo", target, payload=payload, **more)


def body(payload: str, key: str = "k", headers: Headers = ()) -> str:
    return payload_of(lookup(payload, headers=headers)).render(key).decode()


def policy_body(payload: str, attributes: Mapping[str, str] = ATTRIBUTES, headers: Headers = ()) -> str:
    return payload_of(request(payload, headers=headers)).render(attributes).decode()


def complaint(payload: str = "", target: str = "http://h/", headers: Headers = ()) -> str:
    """The one thing that `check` finds wrong, with its key in front; "" where it finds nothing."""
    found = [f"{key}: {what}" for key, what in check(lookup(payload, target, headers=headers))]
    assert len(found) < 2
    return "".join(found)


def sendable(key: str) -> str:
    """The key as UTF-8 can hold it."""
    return key.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("payload", "rendered"),
    [
        ('{"key": "{{ .Key }}"}', '{"key": "k"}'),
        ('{"key": "{{.Key}}"}', '{"key": "k"}'),
        ('{"key": "{{\t.Key\n}}"}', '{"key": "k"}'),
        ('{ "key": "{{ .Key }}" }\n', '{ "key": "k" }\n'),
        ('{"map": "{{ .Name }}", "key": "{{ .Key }}"}', '{"map": "demo", "key": "k"}'),
        ('{"key": {{ .Key }}, "n": {{ .Name }}}', '{"key": "k", "n": "demo"}'),
        ('{"a":{"b":"{{ .Key }}"}}', '{"a":{"b":"k"}}'),
        ('{"a":{"b":{{ .Key }}}}', '{"a":{"b":"k"}}'),
        ('["{{ .Key }}{{ .Key }}"]', '["kk"]'),
        ("  [{{ .Key }}]", '  ["k"]'),
        ('"{{ .Key }}"', '"k"'),
    ],
)
def test_a_payload(payload: str, rendered: str) -> None:
    assert body(payload) == rendered


@pytest.mark.parametrize(
    ("payload", "rendered"),
    [
        ("{{ .Key }}", "k"),
        ("key={{ .Key }}", "key=k"),
        ("a   {{- .Key -}}   b", "akb"),
        ("a \n {{- .Key }} b", "ak b"),
        ("a {{ .Key -}} \t b", "a kb"),
        ("a {{- .Key -}} {{- .Key -}} b", "akkb"),
        ("a {{ .Key -}}   ", "a k"),
        ("a {{ .Key -}} b {{ .Key }} c {{- .Key }} d", "a kb k ck d"),
        ("100% {{ .Key }} %s %%", "100% k %s %%"),
        ("}} { } {", "}} { } {"),
    ],
)
def test_a_payload_of_plain_text(payload: str, rendered: str) -> None:
    assert body(payload, headers=PLAIN) == rendered


@pytest.mark.parametrize(
    ("payload", "rendered"),
    [
        ("{{ .Key }}", AS_JSON),
        ('{"request": {{ .Key }}}', f'{{"request": {AS_JSON}}}'),
        ('{"request": "{{ .Key }}"}', json.dumps({"request": AS_JSON}, ensure_ascii=False)),
        ('{"s": "{{ .Attr.sender }}", "n": "{{ .Attr.nothing }}"}', '{"s": "x\\"@example.org", "n": ""}'),
        ('{"s": {{ .Attr.sender }}, "n": {{ .Attr.nothing }}}', '{"s": "x\\"@example.org", "n": ""}'),
    ],
)
def test_a_payload_of_a_policy(payload: str, rendered: str) -> None:
    assert policy_body(payload) == rendered


def test_a_policy_in_plain_text() -> None:
    assert policy_body("sender {{ .Attr.sender }}", headers=PLAIN) == 'sender x"@example.org'


def test_the_built_in_payloads() -> None:
    assert json.loads(payload_of(lookup()).render(KEY)) == {"key": KEY}
    assert payload_of(request()).render(ATTRIBUTES).decode() == AS_JSON
    assert list(json.loads(policy_body(""))) == list(ATTRIBUTES)


@pytest.mark.parametrize("method", ["GET", "get", "HEAD"])
def test_a_get_has_no_body(method: str) -> None:
    assert payload_of(lookup("{{ .Key }}", method=method)).static == b""


@pytest.mark.parametrize(
    ("payload", "offset", "said"),
    [
        ("{{", 0, "without its }}"),
        ("x {{ .Key", 2, "without its }}"),
        ("{{ .Key }", 0, "without its }}"),
        ("{{}}", 0, "unknown placeholder"),
        ("{{ }}", 0, "unknown placeholder"),
        ("{{ .key }}", 0, r"did you mean \{\{ \.Key \}\}\?"),
        ("{{ Key }}", 0, r"did you mean \{\{ \.Key \}\}\?"),
        ("ab{{ .Nmae }}", 2, r"did you mean \{\{ \.Name \}\}\?"),
        ("{{ .Xyzzy }}", 0, "known are .Name, .Key"),
        ("{{ .Key | js }}", 0, "unknown placeholder"),
        ("{{ printf .Key }}", 0, "unknown placeholder"),
        ("{{/* comment */}}", 0, "unknown placeholder"),
        ("{{-.Key}}", 0, "unknown placeholder"),
        ("{{ .Key-}}", 0, "unknown placeholder"),
        ("{{- -}}", 0, "unknown placeholder"),
        ('{"a":{{"b": 1}}', 5, "unknown placeholder"),
        ("{{ .Attr.sender }}", 0, "only policy services have attributes"),
        ("{{ {{ .Key }} }}", 0, "unknown placeholder"),
    ],
)
def test_anything_else_in_braces_is_an_error(payload: str, offset: int, said: str) -> None:
    for method in ("POST", "GET"):
        with pytest.raises(TemplateError, match=said) as caught:
            payload_of(lookup(payload, method=method))
        assert [place for place, _ in caught.value.problems] == [offset]


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(TemplateError) as caught:
        payload_of(lookup("{{ .A }} {{ .Key }} {{ .B }} {{"))
    assert [place for place, _ in caught.value.problems] == [0, 20, 29]
    assert list(check(lookup("{{ .A }} {{ .B }}", "http://{{ .Key }}/"))) == [
        ("payload", "character 1: unknown placeholder {{ .A }}; known are .Name, .Key"),
        ("payload", "character 10: unknown placeholder {{ .B }}; known are .Name, .Key"),
        ("target", "character 8: a placeholder may stand in the path or the query of a target only"),
    ]


@pytest.mark.parametrize(
    "payload", ["{{ .Attr }}", "{{ .Attr. }}", "{{ .Attr.a b }}", "{{ .attr.sender }}", "{{ .Key.sender }}"]
)
def test_what_is_no_attribute(payload: str) -> None:
    with pytest.raises(TemplateError, match="unknown placeholder"):
        payload_of(request(payload))


@pytest.mark.parametrize(
    ("payload", "hint"),
    [("{{ .attr.sender }}", "did you mean {{ .Attr.sender }}?"), ("{{ .KEY }}", "did you mean {{ .Key }}?"),
     ("{{ .Xyzzy }}", "known are .Name, .Key, .Attr.sender")],
)  # fmt: skip
def test_an_error_says_what_was_likely_meant(payload: str, hint: str) -> None:
    assert [what.endswith(hint) for _, what in check(request(payload))] == [True]


def test_the_templates_of_a_login() -> None:
    def complaints(target: str, payload: str) -> list[str]:
        return [key for key, _ in check(Entry(DOVECOT_SASL, "sasl", target, payload=payload))]

    assert complaints("http://h/{{ .Name }}", "{{ of no effect }}") == []
    assert complaints("http://h/{{ .Key }}", "") == ["target"]
    assert complaints("http://h/{{ .Attr.sender }}", "") == ["target"]
    for payload in ("", "{{ of no effect }}", "{{ .Key }}", "{{", "<"):
        assert payload_of(Entry(DOVECOT_SASL, "sasl", "http://h/", payload=payload)).static == b""


def test_what_no_request_can_change_is_made_once() -> None:
    template = payload_of(lookup('{"map": "{{ .Name }}", "part": "100%"}'))
    assert template.static == b'{"map": "demo", "part": "100%"}'
    assert template.render("k") is template.static
    assert payload_of(lookup('"{{ .Key }}"')).static is None
    assert target_of(lookup(target="https://h/a%20b?c={{ .Name }}")).static == b"https://h/a%20b?c=demo"


def test_a_name_is_encoded_too() -> None:
    entry = Entry(SOCKET_MAP, 'a"b/c', "http://h/{{ .Name }}", payload='{"n": "{{ .Name }}", "m": {{ .Name }}}')
    assert json.loads(payload_of(entry).static) == {"n": 'a"b/c', "m": 'a"b/c'}
    assert target_of(entry).static == b"http://h/a%22b%2Fc"


@pytest.mark.parametrize(
    "payload",
    [r'{"a": "\"{{ .Key }}"}', r'{"a": "\\", "b": "{{ .Key }}"}', '{"a": "{{ .Name }}\\"", "b": "x{{ .Key }}y"}',
     '{"a\\"{{ .Name }}": "{{ .Key }}"}'],
)  # fmt: skip
def test_escaped_quotes_do_not_end_a_string(payload: str) -> None:
    assert json.loads(body(payload, KEY)).popitem()[1].strip('"xy') == KEY


def test_escaped_quotes_do_not_begin_one() -> None:
    assert json.loads(body('{"a\\\\": {{ .Key }}, "\\"": {{ .Key }}}', KEY)) == {"a\\": KEY, '"': KEY}


@given(ANY_TEXT)
@example('"')
@example("\\")
@example('", "admin": true, "x": "')
@example("\ud800\u2028\x00\x7f")
def test_no_key_breaks_out_of_a_payload(key: str) -> None:
    expected = key.encode("utf-8", "replace").decode()
    for payload in ('{"a": "x{{ .Key }}y", "b": 1}', '{"a": {{ .Key }}, "b": 1}'):
        document = json.loads(body(payload, key))
        assert document == {"a": f"x{expected}y" if "x{{" in payload else expected, "b": 1}
    form = payload_of(lookup("a={{ .Key }}&b=1", headers=FORM)).render(key).decode("ascii")
    assert parse_qs(form, keep_blank_values=True) == {"a": [expected], "b": ["1"]}


@given(some.dictionaries(ANY_TEXT, ANY_TEXT, max_size=5))
def test_no_attribute_breaks_out_of_a_payload(attributes: dict[str, str]) -> None:
    def sound(text: str) -> str:
        return text.encode("utf-8", "replace").decode()

    if len({sound(name) for name in attributes}) < len(attributes):
        return
    expected = [(sound(name), sound(value)) for name, value in attributes.items()]
    nested = json.loads(policy_body('{"r": {{ .Key }}, "t": "{{ .Key }}"}', attributes))
    assert list(nested["r"].items()) == expected
    assert list(json.loads(nested["t"]).items()) == expected


@pytest.mark.parametrize(
    ("target", "rendered"),
    [
        ("http://h/map/{{ .Key }}", "http://h/map/a%2Fb%3Fc%23d%20e%2B%25%26%C3%BC"),
        ("http://h/?key={{ .Key }}&map={{ .Name }}", "http://h/?key=a%2Fb%3Fc%23d%20e%2B%25%26%C3%BC&map=demo"),
        ("http://h?key={{ .Key }}", "http://h?key=a%2Fb%3Fc%23d%20e%2B%25%26%C3%BC"),
        ('http://h/"{{ .Key }}"', 'http://h/"a%2Fb%3Fc%23d%20e%2B%25%26%C3%BC"'),
    ],
)
def test_a_target(target: str, rendered: str) -> None:
    assert target_of(lookup(target=target)).render("a/b?c#d e+%&ü").decode() == rendered


def test_a_target_of_a_policy() -> None:
    target = target_of(request(target="https://h/{{ .Attr.sender }}?r={{ .Key }}")).render({"sender": "a@b"}).decode()
    assert target == "https://h/a%40b?r=%7B%22sender%22%3A%22a%40b%22%7D"


@pytest.mark.parametrize(
    "target",
    ["{{ .Key }}", "http://{{ .Key }}/", "http://{{ .Key }}.example.org/", "http://h:{{ .Key }}/", "http://h{{ .Key }}/", "http://h{{ .Key }}",
     "{{ .Key }}://h/", "http:{{ .Key }}", "http://{{ .Key }}@h/", "/{{ .Key }}", "http://{{ .Name }}/{{ .Key }}", "h/{{ .Key }}"],
)  # fmt: skip
def test_no_client_chooses_the_host(target: str) -> None:
    with pytest.raises(TemplateError, match="path or the query"):
        target_of(lookup(target=target))


@pytest.mark.parametrize("target", ["http://h", "no-url", ""])
def test_a_target_without_placeholders_is_the_configurations_affair(target: str) -> None:
    assert target_of(lookup(target=target)).static == target.encode()


@given(ANY_TEXT)
@example("..")
@example(".")
@example("../../admin")
@example("a/../../../admin")
@example("..\\..\\admin")
@example("/..")
@example("./.")
@example(".../..a/a../..")
@example("\r\nHost: evil")
def test_no_key_leaves_its_segment_of_a_target(key: str) -> None:
    url = target_of(lookup(target="http://host/a/{{ .Key }}/z?q={{ .Key }}#f")).render(key).decode("ascii")
    expected = key.encode("utf-8", "replace").decode()
    parts = urlsplit(url)
    segments = parts.path.split("/")
    # A server may decode the path before it resolves dot segments, as nginx does.
    assert posixpath.normpath(unquote(parts.path) + "/end").startswith("/a/")
    assert ntpath.normpath(unquote(parts.path) + "/end").startswith("\\a\\")
    assert (parts.scheme, parts.netloc, parts.fragment) == ("http", "host", "f")
    assert segments[:2] == ["", "a"] and segments[3:] == ["z"] and segments[2] not in (".", "..")
    dots = re.search(r"(^|[/\\\\])\.\.?($|[/\\\\])", expected)
    assert unquote(segments[2]) == expected or (dots and unquote(unquote(segments[2])) == unquote(expected))
    assert parse_qs(parts.query, keep_blank_values=True) == {"q": [expected]}
    assert url.isprintable() and " " not in url


@pytest.mark.parametrize(
    ("headers", "is_form"),
    [
        ((), False),
        (FORM, True),
        ((("CONTENT-TYPE", "Application/X-WWW-Form-Urlencoded"),), True),
        ((("Content-Type", "application/json"),), False),
        ((*FORM, ("Content-Type", "text/plain")), False),
        ((("X-Type", "application/x-www-form-urlencoded"),), False),
    ],
)
def test_a_form_is_known_by_its_content_type(headers: tuple[tuple[str, str], ...], is_form: bool) -> None:
    assert body('["k={{ .Key }}"]', "a&b", headers) == ('["k=a%26b"]' if is_form else '["k=a&b"]')


# Several layers: what was sent, decoded layer by layer, holds the key and nothing more.

EVIL = (
    'a","admin":"1',
    "&admin=1",
    "</k><admin>1</admin><k>",
    "' or '1'='1",
    "\\",
    '\\"',
    "%22",
    "&quot;",
    "]]>",
    "+ \t",
)


@given(ANY_TEXT)
def test_json_in_a_field_of_a_form(key: str) -> None:
    for payload in (
        'payload={"key": "x{{ .Key }}", "b": 1}&c=1',
        "payload=%7B%22key%22:+%22x{{ .Key }}%22,%22b%22:1%7D&c=1",
    ):
        fields = parse_qs(body(payload, key, FORM), strict_parsing=True)
        assert fields["c"] == ["1"] and json.loads(fields["payload"][0]) == {"key": f"x{sendable(key)}", "b": 1}
    fields = parse_qs(body('a=1&payload={"key": {{ .Key }}}', key, FORM), strict_parsing=True)
    assert fields["a"] == ["1"] and json.loads(fields["payload"][0]) == {"key": sendable(key)}


@given(ANY_TEXT)
def test_json_as_a_whole_form(key: str) -> None:
    assert json.loads(unquote_plus(body('{"key": "{{ .Key }}"}', key, FORM))) == {"key": sendable(key)}


@given(ANY_TEXT)
def test_json_in_the_query_of_a_target(key: str) -> None:
    for target in ('http://h/a?q={"key":"{{ .Key }}"}&b=1', "http://h/a?q=%7B%22key%22:{{ .Key }}%7D&b=1"):
        query = parse_qs(urlsplit(target_of(lookup(target=target)).render(key).decode("ascii")).query)
        assert query["b"] == ["1"] and json.loads(query["q"][0]) == {"key": sendable(key)}


@given(ANY_TEXT)
def test_json_in_a_string_of_json(key: str) -> None:
    inner = json.dumps({"key": "{{ .Key }}", "deep": json.dumps(["{{ .Key }}"])})
    document = json.loads(json.loads(body(json.dumps({"a": 1, "inner": inner}), key))["inner"])
    assert document["key"] == sendable(key) and json.loads(document["deep"]) == [sendable(key)]


@given(ANY_TEXT)
def test_a_quoted_word_in_a_string_of_json(key: str) -> None:
    """GraphQL and SCIM have the escapes of JSON between double quotes."""
    query = json.loads(body(json.dumps({"query": '{ user(mail: "{{ .Key }}") { name } }'}), key))["query"]
    start, end = "{ user(mail: ", ") { name } }"
    assert query.startswith(start) and query.endswith(end)
    assert json.loads(query[len(start) : -len(end)]) == sendable(key)


XML_DOCUMENT = """<?xml version="1.0" encoding="utf-8"?>
<q xmlns:s="urn:s" a="{{ .Key }}" b='{{ .Key }}'><s:k>x{{ .Key }}y</s:k><!-- "a comment' --><j>{"key": "{{ .Key }}"}</j></q>
"""


def writable(key: str) -> str:
    """The key as XML can hold it."""
    return "".join(
        ["\ufffd" if (ord(c) < 32 and c not in "\t\r\n") or c in "\ufffe\uffff" else c for c in sendable(key)]
    )


@pytest.mark.parametrize("media_type", ["application/xml", "Text/XML; charset=UTF-8", "application/soap+xml"])
@given(ANY_TEXT)
def test_no_key_breaks_out_of_xml(media_type: str, key: str) -> None:
    root = ElementTree.fromstring(payload_of(lookup(XML_DOCUMENT, headers=(("Content-Type", media_type),))).render(key))
    assert [(child.tag, len(child)) for child in root] == [("{urn:s}k", 0), ("j", 0)]
    assert root.attrib == {"a": writable(key), "b": writable(key)}
    assert root[0].text == f"x{writable(key)}y"
    # JSON escapes control characters itself; the two non-characters are left to XML.
    assert json.loads(root[1].text or "") == {"key": re.sub("[\ufffe\uffff]", "\ufffd", sendable(key))}


@pytest.mark.parametrize("key", EVIL)
def test_a_hostile_key_in_every_layer(key: str) -> None:
    for test in (
        test_json_in_a_field_of_a_form,
        test_json_as_a_whole_form,
        test_json_in_the_query_of_a_target,
        test_json_in_a_string_of_json,
        test_a_quoted_word_in_a_string_of_json,
        test_no_key_breaks_out_of_a_payload,
    ):
        test.hypothesis.inner_test(key)
    test_no_key_breaks_out_of_xml.hypothesis.inner_test("text/xml", key)


def test_a_policy_request_in_every_layer() -> None:
    expected = {**ATTRIBUTES}
    form = parse_qs(policy_body('a={"r": {{ .Key }}, "s": "{{ .Key }}"}', headers=FORM))["a"][0]
    assert json.loads(form)["r"] == expected and json.loads(json.loads(form)["s"]) == expected
    root = ElementTree.fromstring(policy_body("<r>{{ .Key }}</r>", headers=XML))
    assert json.loads(root.text or "") == expected


@pytest.mark.parametrize(
    ("payload", "headers", "said"),
    [
        ("key={{ .Key }}&b=1", (), "this is not JSON (Expecting value); correct it, or set Content-Type"),
        ("<k>{{ .Key }}</k>", (), "application/xml"),
        ("{{ .Key }}", (), "a text alone is not JSON; quote it to send a JSON string; correct it, or set Content-Type"),
        ("{'key': '{{ .Key }}'}", (), "this is not JSON"),
        ('{"key": x{{ .Key }}}', (), "this is not JSON"),
        ('{"key": "a"{{ .Key }}}', (), "this is not JSON"),
        ('{"key": "\\{{ .Key }}"}', (), "this is not JSON (Invalid \\escape)"),
        ('{"key": "\\u00{{ .Key }}"}', (), "this is not JSON (Invalid \\uXXXX escape)"),
        ("[" * 100_000 + "{{ .Key }}", (), "nested too deeply"),
        ('{"key": "{{ .Key }}"} trailing', (("Content-Type", "application/scim+json"),), "this is not JSON (Extra data)"),
        ('{"q": "name = \'{{ .Key }}\'"}', (), "single quotes"),
        ('{"q": "x \\\\\\"{{ .Key }}\\\\\\" y"}', (), "backslashes in front"),
        ('{"q": "x \\"\\\\d {{ .Key }}\\" y"}', (), "not escaped as in JSON"),
        ("a={key: {{ .Key }}}", FORM, "this is not JSON"),
        ("a=%2{{ .Key }}", FORM, "percent sign"),
        ("a='{{ .Key }}'", FORM, "single quotes"),
        ("<k>{{ .Key }}", XML, "this is not XML (no element found)"),
        ("<{{ .Key }}/>", XML, "this is not XML"),
        ("<k>&{{ .Key }};</k>", XML, "this is not XML"),
        ("<k>&#{{ .Key }};</k>", XML, "this is not XML"),
        ("<k>&#x{{ .Key }};</k>", XML, "this is not XML"),
        ("<k a={{ .Key }}/>", XML, "this is not XML"),
        ("<k><!-- {{ .Key }} --></k>", XML, "in text and in the value of an attribute only"),
        ("<k><![CDATA[{{ .Key }}]]></k>", XML, "in text and in the value of an attribute only"),
        ("<k><?do {{ .Key }}?></k>", XML, "in text and in the value of an attribute only"),
        ("<!DOCTYPE k [<!ENTITY e 'x{{ .Key }}'>]><k>&e;</k>", XML, "DOCTYPE"),
        ("<?xml version='1.0' encoding='UTF-7'?><k>{{ .Key }}</k>", XML, "what is sent is UTF-8"),
        ("{{ .Key }}", (("Content-Type", "text/plain; charset=utf-16"),), "Content-Type says utf-16"),
        ("{{ .Key }}", (("Content-Type", "application/yaml"),), "how a key is encoded in application/yaml is not known"),
        ("{{ .Key }}", (("Content-Type", ""),), "set Content-Type"),
    ],
)  # fmt: skip
def test_a_position_whose_encoding_is_not_known_is_refused(payload: str, headers: Headers, said: str) -> None:
    problem = complaint(payload, headers=headers)
    assert problem.startswith(f"payload: character {payload.index('{{ .') + 1}: ") and said in problem
    assert problem.isprintable()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://h/?q={key:{{ .Key }}}", "this is not JSON"),
        ("http://h/a%2{{ .Key }}", "percent sign"),
        ("http://h/?a=1&f=mail eq '{{ .Key }}'", "single quotes"),
        ("http://h/?a=%27{{ .Key }}%27", "single quotes"),
    ],
)
def test_such_a_position_in_a_target_is_refused(target: str, said: str) -> None:
    problem = complaint(target=target)
    assert problem.startswith(f"target: character {target.index('{{') + 1}: ") and said in problem


@pytest.mark.parametrize(
    ("payload", "headers"),
    [
        ("key={{ .Name }}", ()),
        ("<k>{{ .Name }}</k>", (("Content-Type", "application/yaml"),)),
        ("key=1&b", ()),
        ('{"q": "it\'s the user\'s {{ .Key }}"}', ()),
        ("<a><![CDATA[<x>]]><k>{{ .Key }}</k></a>", XML),
        ('\n  { "key":\n"{{ .Key }}" }  \n', ()),
    ],
)
def test_what_is_safe_is_accepted(payload: str, headers: Headers) -> None:
    assert complaint(payload, headers=headers) == ""
    assert body(payload, "k", headers) == payload.replace("{{ .Key }}", "k").replace("{{ .Name }}", "demo")


def test_private_characters_in_a_template_are_not_taken_for_placeholders() -> None:
    assert body('{"a": "\U000f0000{{ .Key }}\U000f0001"}') == '{"a": "\U000f0000k\U000f0001"}'


@given(some.text('{}-. \n"\\KeyNam%', max_size=30))
def test_any_text_is_a_template_or_an_error(payload: str) -> None:
    try:
        rendered = payload_of(lookup(payload or "x")).render("k").decode()
    except TemplateError as error:
        assert error.problems and "{{" in payload
    else:
        assert "{{" in payload or rendered == (payload or "x")
