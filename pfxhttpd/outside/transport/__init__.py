"""The way to a backend: a transport adapter for `requests.Session` that costs a seventh of the stock one.

requests and urllib3 stay what callers see and what connects: requests' `Session` and `PreparedRequest` above,
urllib3's connections (certificate checks, proxies' tunnels) below. Our own is the part in between that runs for every
lookup: head and body leave in one send, httptools (llhttp, in C) reads the answer, and one deadline holds over
resolving, connecting, sending and every read.

Errors are requests' own classes, those that `requests.adapters.HTTPAdapter` raises for the same mishap, with one
difference: a timeout while the body arrives is a `ReadTimeout` here, not a `ConnectionError`.
"""
