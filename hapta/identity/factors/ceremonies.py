"""The ceremonies of WebAuthn Level 3 themselves, by `webauthn` (py_webauthn): options for the browser, and what it answered.

Only `passkeys.py` comes here, and only when somebody uses a passkey: the package and what it brings take 20 MB of memory, which a
server without passkeys need not spend.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    options_to_json,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    CredentialDeviceType,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from hapta.identity.factors.errors import BadPasskey
from hapta.identity.factors.models import Json, RelyingParty


class Registered(NamedTuple):
    """A credential that was made just now."""

    credential_id: bytes
    public_key: bytes
    sign_count: int
    aaguid: str
    synced: bool
    backed_up: bool


class Authenticated(NamedTuple):
    """A use of a credential."""

    sign_count: int
    backed_up: bool
    user_verified: bool


def registration_options(
    party: RelyingParty,
    *,
    handle: bytes,
    name: str,
    display_name: str,
    challenge: bytes,
    known: Sequence[bytes],
    timeout_ms: int,
) -> Json:
    """What `navigator.credentials.create` needs (section 5.4). `known`: credentials that must not be made again."""
    options = generate_registration_options(
        rp_id=party.id,
        rp_name=party.name,
        user_id=handle,
        user_name=name,
        user_display_name=display_name,
        challenge=challenge,
        timeout=timeout_ms,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED,
            user_verification=UserVerificationRequirement.PREFERRED,
        ),
        exclude_credentials=[PublicKeyCredentialDescriptor(id=one) for one in known],
    )
    return json.loads(options_to_json(options))


def authentication_options(
    party: RelyingParty, *, challenge: bytes, known: Sequence[bytes], must_verify: bool, timeout_ms: int
) -> Json:
    """What `navigator.credentials.get` needs (section 5.5). `known`: the only ones that may answer; empty: any."""
    required, preferred = UserVerificationRequirement.REQUIRED, UserVerificationRequirement.PREFERRED
    options = generate_authentication_options(
        rp_id=party.id,
        challenge=challenge,
        timeout=timeout_ms,
        allow_credentials=[PublicKeyCredentialDescriptor(id=one) for one in known] or None,
        user_verification=required if must_verify else preferred,
    )
    return json.loads(options_to_json(options))


def registered(party: RelyingParty, credential: Json, challenge: bytes) -> Registered:
    """Verifies the answer to `registration_options` (section 7.1).

    Raises:
        BadPasskey: it does not hold.
    """
    try:
        verified = verify_registration_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=list(party.origins),
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise BadPasskey from error
    return Registered(
        verified.credential_id,
        verified.credential_public_key,
        verified.sign_count,
        str(verified.aaguid),
        verified.credential_device_type is CredentialDeviceType.MULTI_DEVICE,
        verified.credential_backed_up,
    )


def authenticated(
    party: RelyingParty, credential: Json, challenge: bytes, public_key: bytes, *, must_verify: bool
) -> Authenticated:
    """Verifies the answer to `authentication_options` (section 7.2), but for the counter: the caller judges that.

    Raises:
        BadPasskey: it does not hold.
    """
    try:
        verified = verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=list(party.origins),
            credential_public_key=public_key,
            credential_current_sign_count=0,  # a counter that went back warns, it does not refuse
            require_user_verification=must_verify,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise BadPasskey from error
    return Authenticated(verified.new_sign_count, verified.credential_backed_up, verified.user_verified)
