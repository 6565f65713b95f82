"""The side of OpenID Connect that is outside: keys and signatures, the provider's endpoints, and what is kept of them.

keys        a provider's public keys at work: python-jose with EdDSA and PSS added
assertion   our own private key, and the assertions that it signs
provider    a provider's endpoints, asked over a session that is passed in
store       discovery documents, key sets and tokens that all workers share
"""
