"""An example backend in Python: maps in an SQLite database, served by any WSGI server..

    sqlite3 maps.db "CREATE TABLE entry (map VARCHAR(64), lookup_key VARCHAR(255), value TEXT, PRIMARY KEY (map, lookup_key))"
    sqlite3 maps.db "INSERT INTO entry VALUES ('mailboxes', 'alice@example.com', 'example.com/alice/')"
    MAPS_DB=maps.db gunicorn --bind 127.0.0.1:8080 --keep-alive 300 --threads 8 sqlite_wsgi:application

It answers the /lookup of contrib/config/pfxhttp.yml and contrib/config/virtual-mail.yml. A key that is not in the table is
answered with 200 and null, and a database that cannot be read with 503, so that the mail waits. The keys in the table are in
lower case, because Postfix looks up some addresses as the mail client has written them.
"""

import json
import os
import sqlite3


def application(environ, start_response):
    """WSGI (PEP 3333): {"map": ..., "key": ...} in, {"data": {"result": ...}} out."""
    status, answer = lookup(environ)
    body = json.dumps(answer).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def lookup(environ):
    if environ["REQUEST_METHOD"] != "POST" or environ["PATH_INFO"] != "/lookup":
        return "404 Not Found", {"error": "there is nothing here"}
    try:
        question = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        name, key = question["map"], question["key"]
    except (ValueError, KeyError, TypeError):
        name = key = None
    if not isinstance(name, str) or not isinstance(key, str):
        return "400 Bad Request", {"error": "a JSON object with map and key was expected"}
    try:
        database = sqlite3.connect(f"file:{os.environ['MAPS_DB']}?mode=ro", uri=True)
        try:
            query = "SELECT value FROM entry WHERE map = ? AND lookup_key = ?"
            row = database.execute(query, (name, key.lower())).fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        return "503 Service Unavailable", {"error": str(error)}
    return "200 OK", {"data": {"result": row[0] if row else None}}
