"""The way to a backend: a transport adapter for `requests.Session` that costs a seventh of the stock one.

requests stays what callers see: its `Session` and `PreparedRequest` above, its errors when something goes wrong. Our
own is what runs for every lookup: head and body leave in one send, httptools (llhttp, in C) reads the answer, and one
deadline holds over resolving, connecting, TLS, sending and every byte that trickles in. Certificates are checked by
OpenSSL, as the context says that `trust` made.

    adapter   one request out, one response in; what is kept for the next
    session   a session that has one adapter and follows nothing
    request   a prepared request with its head rendered
    dial      a new connection: resolve, connect, CONNECT, TLS
    line      a connection that sends while it listens, by a deadline; plain, or TLS over another
    parser     the response as it arrives, bounded and decoded

How it differs from `requests.adapters.HTTPAdapter`, on purpose: `timeout` is the deadline of the whole exchange;
a timeout is a `Timeout` wherever it strikes, in the body or at a proxy, too; heads (64 KiB) and bodies (10 MiB) are
bounded; framing that two readers could read differently is refused (RFC 9112 sections 2.2, 5.2, 6.3: lone line feeds, folded
headers, a repeated Content-Length, Content-Length beside Transfer-Encoding, versions other than 1.0 and 1.1); interim
responses are skipped, all of them; a truncated gzip body is an error; a kept connection that dies before a byte of
response is replaced once; a body arrives whole, so `stream`, `verify` and `cert` have no effect.
"""
