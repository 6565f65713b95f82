"""A backend that repeats what it was sent: no secret of an exchange reaches a client, the log or the status."""

from __future__ import annotations

import base64
import signal
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from kit.answer import Answer, Request
from kit.backend import ThreadBackend
from kit.configuration import policy, socket_map
from kit.logins import Logins, login
from kit.site import Site

API_KEY, API_PASSWORD, USER_PASSWORD = "k3y-of/the+api", "p4ssword of/the+api", "hunter2 of/ann+"
AUTHORIZATION = "Basic " + base64.b64encode(f"api:{API_PASSWORD}".encode()).decode()
CREDENTIALS = {"custom_headers": [f"X-Api-Key: {API_KEY}"], "http_auth_basic": f"api:{API_PASSWORD}"}

FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "inside base64": lambda text: base64.b64encode(f"{{{text}}}".encode()).decode(),
    "percent-encoded": lambda text: quote(text, safe=""),
}


def pieces(secret: str) -> list[str]:
    """A piece of each form, so that a part of it is found as well."""
    return [form(secret)[4:12] for form in FORMS.values()]


@pytest.fixture(scope="module")
def echoing() -> Iterator[ThreadBackend]:
    """It answers with the credentials of the request, in the form that its path names."""

    def echo(request: Request) -> Answer:
        form = FORMS[request.path.strip("/").replace("-", " ").replace("percent encoded", "percent-encoded")]
        said = " ".join(form(request.header(name) or "") for name in ("x-api-key", "authorization"))
        password = request.fields().get("password", "")
        headers = {"Auth-Status": f"x {form(password)} {form(API_PASSWORD)} {said} is wrong"} if password else {}
        document = {"error": f"{form(API_PASSWORD)} {said}", "result": said, "no action": f"! {said}"}
        return Answer(403 if password else 200, headers, json=document)

    with ThreadBackend() as backend:
        for form in FORMS:
            backend.answer(path(form), echo)
        yield backend


def path(form: str) -> str:
    return "/" + form.replace(" ", "-")


def assert_clean(shown: str, *secrets: str) -> None:
    assert [piece for secret in secrets for piece in pieces(secret) if piece in shown] == []


@pytest.mark.parametrize("form", FORMS)
def test_credentials_of_ours_in_an_error(echoing: ThreadBackend, form: str) -> None:
    maps = {"map": socket_map(echoing.url(path(form)), **CREDENTIALS, error_field="error")}
    services = {"policy": policy(echoing.url(path(form)), **CREDENTIALS, value_field="no action", error_field="")}
    with Site(maps, services, level="debug") as site:
        reply = site.ask("map", "k")
        assert reply.startswith("PERM ") and "<redacted>" in reply
        assert site.act("policy", sender="ann") == "DEFER Temporary server problem"
        mark = site.log.position
        site.daemon.send_signal(signal.SIGUSR1)
        site.log.wait_for("Status", start=mark)
        shown = reply + site.log.text + site.daemon.run("status").stdout
    assert_clean(shown, API_KEY, API_PASSWORD, AUTHORIZATION)


@pytest.mark.parametrize("form", FORMS)
def test_a_password_in_a_reason(echoing: ThreadBackend, form: str) -> None:
    with Logins({"login": login(echoing.url(path(form)), **CREDENTIALS)}, level="debug") as logins:
        with logins.client("login") as client:
            reply = client.plain("ann", USER_PASSWORD)
        logins.log.wait_for("Authentication failed")
        shown = reply + logins.log.text
    assert reply.startswith("FAIL\t1\tuser=ann\treason=x ") and "<redacted>" in reply
    assert_clean(shown, USER_PASSWORD, API_KEY, API_PASSWORD, AUTHORIZATION)


def test_a_value_is_data(echoing: ThreadBackend) -> None:
    with Site({"map": socket_map(echoing.url(path("plain")), **CREDENTIALS, error_field="")}, level="debug") as site:
        assert site.ask("map", "k") == f"OK {API_KEY} {AUTHORIZATION}"
        assert_clean(site.log.text, API_KEY, API_PASSWORD)
