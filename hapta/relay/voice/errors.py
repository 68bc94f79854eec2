"""What voice refuses, in the words that clients know (contract relay, section 10; relay-native, section 2.18)."""

from __future__ import annotations

from hapta.kit.errors import BadGateway, Invalid


class VoiceRefused(Invalid):
    """Voice is not set up here, or ElevenLabs gave no token."""

    code = "voice_refused"
    message = "ElevenLabs API error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message, allowed=False)


class VoiceUnavailable(BadGateway):
    """ElevenLabs does not say what the account has used, so nobody can say whether it may go on."""

    code = "voice_unavailable"
    message = "Voice usage is temporarily unavailable"
