"""The person at the browser, for pages whose commands need one: signs in, allows what an app asks for, and prints where that led.

`python person.py ADDRESS EMAIL PASSWORD [CODE]`: ADDRESS is what the page tells people to open; CODE is typed into the page of the
device grant. It works through the pages as they come, as tests/clients/oauth_person.py does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.clients.oauth_person import Forms, Person, Stuck


def main(address: str, email: str, password: str, code: str = "") -> None:
    """Prints the address that the browser is sent to at the end, and opens it if it is on this machine."""
    parts = urlsplit(address)
    with Person(f"{parts.scheme}://{parts.netloc}", email, password) as person:
        page = person.open(address)
        if not code:
            there = person.go_on(page)
            print(there)
            if urlsplit(there).hostname == "127.0.0.1":
                person.http.get(there)
            return
        for _ in range(8):
            forms = Forms(page.text).found
            typed = next((form for form in forms if "user_code" in form.names), None)
            if typed is not None and not any(("decision", "allow") in form.buttons for form in forms):
                page = person.submit(page, typed, {"user_code": code})
                continue
            try:
                page = person.step(page)
            except Stuck:
                break
        print(page.status_code, page.url)


if __name__ == "__main__":
    main(*sys.argv[1:])
