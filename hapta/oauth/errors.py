"""What oauth refuses, in the codes of its standards (contract identity, sections 6 and 7 have them in tables)."""

from __future__ import annotations

from hapta.kit.errors import Invalid, TooMany, Unauthenticated


class OAuthError(Invalid):
    """Base of errors with a code of RFC 6749, section 5.2 and its relatives; answered with status 400."""


class InvalidRequest(OAuthError):
    """A parameter is missing, malformed or repeated."""

    code = "invalid_request"
    message = "The request is not valid"


class InvalidClient(Unauthenticated):
    """Unknown client, or its credentials do not count; the two are never told apart. Answered with 401."""

    code = "invalid_client"
    message = "Client authentication failed"

    def __init__(self, message: str | None = None, *, basic: bool = False) -> None:
        super().__init__(message)
        # RFC 6749, section 5.2: the challenge names the scheme that the client tried.
        self.wire_headers = (("www-authenticate", 'Basic realm="hapta", charset="UTF-8"'),) if basic else ()


class InvalidGrant(OAuthError):
    """The code, refresh token or verifier does not count, or belongs to another client."""

    code = "invalid_grant"
    message = "The grant is not valid"


class UnauthorizedClient(OAuthError):
    """The client may not use this grant."""

    code = "unauthorized_client"
    message = "The client may not use this grant"


class UnsupportedGrantType(OAuthError):
    code = "unsupported_grant_type"
    message = "This grant type is not supported"


class UnsupportedResponseType(OAuthError):
    code = "unsupported_response_type"
    message = "Only the response type `code` is supported"


class InvalidScope(OAuthError):
    """Unknown, or wider than what was granted."""

    code = "invalid_scope"
    message = "The scope is not valid"


class InvalidTarget(OAuthError):
    """RFC 8707, section 2: the resource is unknown, or was not granted."""

    code = "invalid_target"
    message = "The resource is not valid"


class AccessDenied(OAuthError):
    code = "access_denied"
    message = "The request was denied"


class InvalidRequestUri(OAuthError):
    code = "invalid_request_uri"
    message = "The request_uri is unknown, used or expired"


class InvalidDpopProof(OAuthError):
    """RFC 9449, section 5."""

    code = "invalid_dpop_proof"
    message = "The DPoP proof is not valid"


class UseDpopNonce(OAuthError):
    """RFC 9449, section 8: try again with this nonce."""

    code = "use_dpop_nonce"
    message = "A DPoP nonce is needed"

    def __init__(self, nonce: str) -> None:
        super().__init__()
        self.wire_headers = (("dpop-nonce", nonce),)


class AuthorizationPending(OAuthError):
    code = "authorization_pending"
    message = "The user has not decided yet"


class SlowDown(OAuthError):
    code = "slow_down"
    message = "Poll more slowly"


class ExpiredToken(OAuthError):
    code = "expired_token"
    message = "The device code has expired"


class UnsupportedTokenType(OAuthError):
    code = "unsupported_token_type"
    message = "Tokens of this type cannot be revoked"


class InvalidRedirectUri(OAuthError):
    """RFC 7591, section 3.2.2."""

    code = "invalid_redirect_uri"
    message = "A redirect URI is not acceptable"


class InvalidClientMetadata(OAuthError):
    """RFC 7591, section 3.2.2."""

    code = "invalid_client_metadata"
    message = "The client metadata is not acceptable"


class InvalidSoftwareStatement(OAuthError):
    """RFC 7591, section 3.2.2. Nobody's statements are trusted here."""

    code = "invalid_software_statement"
    message = "Software statements are not supported"


class LoginRequired(OAuthError):
    code = "login_required"
    message = "The user must sign in"


class ConsentRequired(OAuthError):
    code = "consent_required"
    message = "The user must consent"


class InteractionRequired(OAuthError):
    code = "interaction_required"
    message = "The user must act"


class AccountSelectionRequired(OAuthError):
    code = "account_selection_required"
    message = "The user must choose an account"


class RequestNotSupported(OAuthError):
    code = "request_not_supported"
    message = "Request objects are not supported"


class RequestUriNotSupported(OAuthError):
    code = "request_uri_not_supported"
    message = "Only request URIs that were pushed here are supported"


class RegistrationNotSupported(OAuthError):
    code = "registration_not_supported"
    message = "The parameter `registration` is not supported"


class Throttled(TooMany):
    """RFC 6749 has no code for it; `temporarily_unavailable` with `Retry-After` is what clients understand."""

    code = "temporarily_unavailable"
    message = "Too many requests"


class UnmetAuthenticationRequirements(OAuthError):
    """OpenID Connect Unmet Authentication Requirements 1.0: signing in did not reach the `acr` that was asked for."""

    code = "unmet_authentication_requirements"
    message = "The sign-in is not as sure as the app asks for"


_DPOP_ALGORITHMS = "ES256 RS256 PS256 EdDSA"


class ResourceDpopProof(Unauthenticated):
    """RFC 9449, section 7.1: the proof that came with a token at a resource does not count."""

    code = "invalid_dpop_proof"
    message = "The DPoP proof is not valid"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message)
        challenge = f'DPoP error="invalid_dpop_proof", algs="{_DPOP_ALGORITHMS}"'
        self.wire_headers = (("www-authenticate", challenge),)


class ResourceNeedsDpopNonce(Unauthenticated):
    """RFC 9449, section 9: the resource wants a proof with this nonce."""

    code = "use_dpop_nonce"
    message = "A DPoP nonce is needed"

    def __init__(self, nonce: str) -> None:
        super().__init__()
        challenge = f'DPoP error="use_dpop_nonce", algs="{_DPOP_ALGORITHMS}"'
        self.wire_headers = (("www-authenticate", challenge), ("dpop-nonce", nonce))
