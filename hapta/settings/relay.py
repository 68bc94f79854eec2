"""The section of the relay: encrypted agent sessions, their sockets, and the services of others that its apps ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hapta.kit.fields import setting


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Agent sessions, machines, artifacts and the updates between them."""

    enabled: bool = setting(True, "Whether the relay is served.")
    max_sockets_per_account: int = setting(
        100, "Sockets of one account, of all kinds together, in one worker.", minimum=1
    )
    max_strangers_per_address: int = setting(
        5000,
        "Sockets of one client address (of IPv6: one /64) in one worker that have not signed in yet; more are refused."
        " Behind a reverse proxy see `server.trust_proxy`: without it all clients have the proxy's address.",
        minimum=1,
    )
    max_frame_bytes: int = setting(
        6 * 1024 * 1024, "Largest frame of a socket; it should hold the largest message.", minimum=65536
    )
    frames_per_minute: int = setting(3000, "Frames that one socket may send in a minute.", minimum=60)
    max_queued_bytes: int = setting(
        16 * 1024 * 1024, "What may wait for a socket that reads slowly; past it the socket is closed.", minimum=65536
    )
    max_queued_frames: int = setting(2000, "As many frames may wait for a socket that reads slowly.", minimum=16)
    auth_seconds: float = setting(5.0, "A socket that signs in by a message has so long for it.", minimum=0.1)
    rpc_seconds: float = setting(30.0, "A call that nobody answers fails after so long.", minimum=0.1)
    rpc_reconnect_seconds: float = setting(
        15.0,
        "A call to a machine or session that was connected a moment ago waits so long for it to come back.",
        minimum=0,
    )
    presence_timeout_seconds: float = setting(
        600.0, "Sessions and machines that have been silent for so long count as inactive.", minimum=30
    )
    update_log_seconds: float = setting(
        600.0, "How long updates are kept for workers that missed their announcement.", minimum=60
    )
    tombstone_days: int = setting(
        90, "How long a client may be away and still be told what was deleted; after that it starts over.", minimum=1
    )
    empty_session_days: int = setting(
        1, "Inactive sessions without any message are removed when nothing has happened to them for so long.", minimum=1
    )
    max_sessions_per_account: int = setting(10_000, "Sessions of one account.", minimum=1)
    max_machines_per_account: int = setting(200, "Machines of one account.", minimum=1)
    max_artifacts_per_account: int = setting(10_000, "Artifacts of one account.", minimum=1)
    max_keys_per_account: int = setting(
        10_000, "Keys of one account's key-value store, deleted ones included.", minimum=1
    )
    max_message_bytes: int = setting(
        4 * 1024 * 1024,
        "Largest encrypted message. The terminal sends one that is refused again and again, and nothing after it.",
        minimum=65536,
    )
    master_secret: str = setting(
        "",
        "Secret under which tokens of vendors are sealed, when they come from a server that had one (32 characters or more)."
        " Empty: made from the server's own secret.",
        env=("HAPPY_MASTER_SECRET", "HANDY_MASTER_SECRET"),
        hidden="all",
    )
    app_url: str = setting(
        "https://app.happy.engineering",
        "The web app: where links in mails and GitHub's way back lead.",
        env=("HAPPY_APP_URL",),
    )
    github_client_id: str = setting("", "Client id of the GitHub app; empty: GitHub is off.", env=("GITHUB_CLIENT_ID",))
    github_client_secret: str = setting("", "Its secret.", env=("GITHUB_CLIENT_SECRET",), hidden="all")
    github_redirect_url: str = setting(
        "",
        "Where GitHub sends people back to. Empty: `/v1/connect/github/callback` of this server.",
        env=("GITHUB_REDIRECT_URL",),
    )
    github_webhook_secret: str = setting(
        "", "Secret of GitHub's webhook.", env=("GITHUB_WEBHOOK_SECRET",), hidden="all"
    )
    github_url: str = setting("https://github.com", "Address of GitHub, for its pages and its token endpoint.")
    github_api_url: str = setting("https://api.github.com", "Address of GitHub's API.")
    elevenlabs_api_key: str = setting(
        "", "Key of ElevenLabs; empty: voice is off.", env=("ELEVENLABS_API_KEY",), hidden="all"
    )
    elevenlabs_url: str = setting("https://api.elevenlabs.io", "Address of ElevenLabs.")
    revenuecat_url: str = setting("https://api.revenuecat.com", "Address of RevenueCat, which knows subscriptions.")
    revenuecat_api_key: str = setting(
        "",
        "Key for RevenueCat where an app sends none of its own.",
        env=("REVENUECAT_API_KEY",),
        hidden="all",
    )
    voice_requires_subscription: bool = setting(
        False, "Whether voice needs the entitlement `pro` at RevenueCat; a server of one's own usually asks for none."
    )
    voice_seconds_per_month: int = setting(0, "Seconds of voice an account has in 30 days; `0`: no limit.", minimum=0)
    voice_conversations_per_month: int = setting(
        0, "Conversations an account may begin in 30 days; `0`: no limit.", minimum=0
    )
    expo_url: str = setting(
        "https://exp.host", "Address of Expo, which carries push notifications; empty: none are sent."
    )
    debug_log: bool = setting(
        False,
        "Whether apps may write into this server's log; only in development.",
        env=("DANGEROUSLY_LOG_TO_SERVER_FOR_AI_AUTO_DEBUGGING",),
    )
    debug_log_token: str = setting(
        "", "What apps must send to write into the log; empty: nothing.", env=("DEV_LOGGING_TOKEN",), hidden="all"
    )
    ci_metrics_key: str = setting(
        "",
        "What builds send in `X-CI-API-Key` with their sizes, which are not kept; empty: nobody may.",
        env=("CI_METRICS_API_KEY",),
        hidden="all",
    )
    client_shape: Literal["auto", "wrapped", "bare"] = setting(
        "auto",
        "How lists of machines and artifacts look: `auto` by whether a client names itself in `X-Happy-Client`.",
    )
