"""HTTP to a backend: a transport adapter for `requests.Session` at a seventh of the stock adapter's cost.

Callers use requests' `Session` and `PreparedRequest` and get its exceptions. Below that, everything that runs for a
lookup is our own: head and body are sent in one call, httptools (llhttp, in C) parses the response, and one deadline
covers name resolution, connecting, TLS, sending, and every byte received. OpenSSL checks certificates, with the context
that `io.tls` makes.

    adapter   sends one request, returns one response, and pools idle connections
    session   a session that has one adapter and follows no redirects
    request   a prepared request with its head rendered
    dial      a new connection: resolve, connect, CONNECT, TLS
    stream    a connection that sends while it waits to receive, by a deadline; TCP, or TLS over another stream
    response  the response as it arrives, bounded and decoded

How it differs from `requests.adapters.HTTPAdapter`, on purpose: `timeout` is the deadline of the whole exchange;
a timeout is a `Timeout` wherever it occurs, in the body or at a proxy, too; heads (64 KiB) and bodies (10 MiB) are
bounded; framing that two parsers could read differently is refused (RFC 9112 sections 2.2, 5.2, 6.3: bare line feeds,
folded headers, a repeated Content-Length, Content-Length with Transfer-Encoding, versions other than 1.0 and 1.1); all
interim responses are skipped; a truncated gzip body is an error; a pooled connection that is lost before a byte of the
response has arrived is replaced once; bodies are read whole, so `stream`, `verify` and `cert` have no effect.
"""
