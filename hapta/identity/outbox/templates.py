"""From a template and its variables to subject, text and HTML, in the reader's language or else in English.

A message is `messages_text/<locale>/<name>.txt` (first line: the subject), beside it `<name>.html` if it has one, and
`<name>.sms` for text messages. Values are escaped in HTML, and a variable that is missing is an error, never a gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, NamedTuple

from hapta.mail.sender import Channel

if TYPE_CHECKING:
    import jinja2

FALLBACK = "en"
LAYOUT = "_layout.html"


class Rendered(NamedTuple):
    """A message in words."""

    subject: str
    text: str
    html: str | None


class Templates:
    """The templates of one product.

    Args:
        product_name: what messages call us.
        domain: the host of the login pages; a code in a text message is bound to it, so that phones fill it in there only.
    """

    def __init__(self, product_name: str, domain: str) -> None:
        self._product = product_name
        self._domain = domain
        self._files = _files()

    def names(self) -> set[str]:
        """All templates, in whatever form they exist."""
        return {name.partition("/")[2].rpartition(".")[0] for name in self._files if "/" in name and "/_" not in name}

    def locales(self) -> set[str]:
        """The languages."""
        return {name.partition("/")[0] for name in self._files if "/" in name}

    def check(self, name: str, channel: Channel) -> None:
        """Raises ValueError when there is no such template for the channel."""
        if f"{FALLBACK}/{name}.{_suffix(channel)}" not in self._files:
            raise ValueError(f"there is no template {name!r} for {channel}")

    def render(self, name: str, channel: Channel, locale: str, variables: Mapping[str, str]) -> Rendered:
        """The message in words.

        Args:
            locale: a language tag; its first part counts, and English stands in for a language that we do not have.
        """
        language = self._language(locale, f"{name}.{_suffix(channel)}")
        values = {"product": self._product, "domain": self._domain, "language": language, **variables}
        text = (
            _environment(autoescape=False).get_template(f"{language}/{name}.{_suffix(channel)}").render(values).strip()
        )
        if channel == "sms":
            return Rendered("", self._with_autofill(text, variables), None)
        subject, _, body = text.partition("\n")
        html = None
        if f"{language}/{name}.html" in self._files:
            page = _environment(autoescape=True).get_template(f"{language}/{name}.html")
            html = page.render(values, subject=subject.strip())
        return Rendered(" ".join(subject.split()), body.strip() + "\n", html)

    def _with_autofill(self, text: str, variables: Mapping[str, str]) -> str:
        """Adds the last line by which browsers and phones know whose page the code is for (WICG, origin-bound codes)."""
        code = variables.get("code")
        return text if code is None else f"{text}\n\n@{self._domain} #{code}"

    def _language(self, locale: str, file: str) -> str:
        language = locale.replace("_", "-").partition("-")[0].lower()
        return language if f"{language}/{file}" in self._files else FALLBACK


def _suffix(channel: Channel) -> str:
    return "sms" if channel == "sms" else "txt"


@cache
def _environment(*, autoescape: bool) -> jinja2.Environment:
    """Each template is compiled once in a process, and none at rest."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.DictLoader(dict(_files())),
        autoescape=autoescape,  # noqa: S701 - off for plain text, which nobody reads as HTML
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=False,
    )


@cache
def _files() -> Mapping[str, str]:
    root = resources.files("hapta.identity") / "messages_text"
    found: dict[str, str] = {LAYOUT: (root / LAYOUT).read_text(encoding="utf-8")}
    for folder in root.iterdir():
        if folder.is_dir():
            found.update(_of_language(folder))
    return found


def _of_language(folder: Traversable) -> dict[str, str]:
    return {
        f"{folder.name}/{file.name}": file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name.endswith((".txt", ".html", ".sms"))
    }
