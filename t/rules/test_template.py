"""Templates: what may stand in one, and that nothing a client sends breaks out of its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP, Entry
from pfxhttpd.rules.template import TemplateError, check, payload_of, target_of

KEY = 'a"b\\c\n{{ .Key }}%s'
ATTRIBUTES = {"request": "smtpd_access_policy", "sender": 'x"@example.org', "z": "", "a": "grün"}
AS_JSON = '{"request":"smtpd_access_policy","sender":"x\\"@example.org","z":"","a":"grün"}'
FORM = (("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),)
ANY_TEXT = some.text(some.characters(exclude_categories=()), max_size=40)


def lookup(payload: str = "", target: str = "http://h/", **more: object) -> Entry:
    return Entry(SOCKET_MAP, "demo", target, payload=payload, **more)


def request(payload: str = "", target: str = "http://h/", **more: object) -> Entry:
    return Entry(POLICY_SERVICE, "demo", target, payload=payload, **more)


def body(payload: str, key: str = "k") -> str:
    return payload_of(lookup(payload)).render(key).decode()


def policy_body(payload: str, attributes: Mapping[str, str] = ATTRIBUTES) -> str:
    return payload_of(request(payload)).render(attributes).decode()


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
def test_a_payload(payload: str, rendered: str) -> None:
    assert body(payload) == rendered


@pytest.mark.parametrize(
    ("payload", "rendered"),
    [
        ("{{ .Key }}", AS_JSON),
        ('{"request": {{ .Key }}}', f'{{"request": {AS_JSON}}}'),
        ('{"request": "{{ .Key }}"}', json.dumps({"request": AS_JSON}, ensure_ascii=False)),
        ('{"s": "{{ .Attr.sender }}", "n": "{{ .Attr.nothing }}"}', '{"s": "x\\"@example.org", "n": ""}'),
        ('{"s": {{ .Attr.sender }}, "n": {{ .Attr.nothing }}}', '{"s": "x\\"@example.org", "n": ""}'),
        ("sender {{ .Attr.sender }}", 'sender x"@example.org'),
    ],
)
def test_a_payload_of_a_policy(payload: str, rendered: str) -> None:
    assert policy_body(payload) == rendered


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
    assert payload_of(Entry(DOVECOT_SASL, "sasl", "http://h/")).static == b""


def test_what_no_request_can_change_is_made_once() -> None:
    template = payload_of(lookup('{"map": "{{ .Name }}", "part": "100%"}'))
    assert template.static == b'{"map": "demo", "part": "100%"}'
    assert template.render("k") is template.static
    assert payload_of(lookup("{{ .Key }}")).static is None
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
@example("\r\nHost: evil")
def test_no_key_leaves_its_segment_of_a_target(key: str) -> None:
    url = target_of(lookup(target="http://host/a/{{ .Key }}/z?q={{ .Key }}#f")).render(key).decode("ascii")
    expected = key.encode("utf-8", "replace").decode()
    parts = urlsplit(url)
    segments = parts.path.split("/")
    assert (parts.scheme, parts.netloc, parts.fragment) == ("http", "host", "f")
    assert segments[:2] == ["", "a"] and segments[3:] == ["z"] and unquote(segments[2]) == expected
    assert segments[2] not in (".", "..")
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
    rendered = payload_of(lookup("k={{ .Key }}", headers=headers)).render("a&b").decode()
    assert rendered == ("k=a%26b" if is_form else "k=a&b")


@given(some.text('{}-. \n"\\KeyNam%', max_size=30))
def test_any_text_is_a_template_or_an_error(payload: str) -> None:
    try:
        rendered = payload_of(lookup(payload or "x")).render("k").decode()
    except TemplateError as error:
        assert error.problems and "{{" in payload
    else:
        assert "{{" in payload or rendered == (payload or "x")
