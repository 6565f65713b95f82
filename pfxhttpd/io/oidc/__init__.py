"""OpenID Connect: keys and signatures, and requests to the endpoints of a provider.

keys        verification of signatures by python-jose, with EdDSA and PSS added
assertion   the private key of pfxhttpd, and the assertions signed with it
key_file    the file of that key
endpoints   requests to a provider over a session
"""
