"""OpenID Connect: tokens for backends, and logins with tokens.

shared      documents that all workers share and one worker fetches
provider    one provider: its discovery document, keys and endpoints
backend     the token for the requests to a backend
validator   validation of the tokens of users
login       a login with a token, within the timeout of its entry
"""
