"""OpenID Connect at work: tokens for backends, and users who log in with tokens.

shared      a document that all workers share and one of them fetches
provider    one provider: its discovery document, its keys, its endpoints
backend     the token that a backend's requests bear
login       whether a user's token is good, and whose it is
"""
