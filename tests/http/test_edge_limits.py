"""The edge: rate limits, and whose budget a request draws on."""

from __future__ import annotations

import pytest

from tests.http.house import (
    ADDRESS,
    NewHouse,
    Sender,
    endless,
)

# --- limits ---


async def test_an_answer_says_which_limit_applies_and_what_is_left(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:3", "account": "60/60:5"})
    async with house.client() as client:
        left: list[str] = []
        for _ in range(3):
            answer = await client.get("/nothing")
            assert answer.headers["ratelimit-policy"] == '"default";q=6;w=60'
            left.append(answer.headers["ratelimit"])
        assert left == ['"default";r=2;t=10', '"default";r=1;t=20', '"default";r=0;t=30']
        answer = await client.get("/private", headers={"authorization": "Bearer of-alice"})
        assert answer.headers["ratelimit-policy"] == '"account";q=60;w=60'
        assert answer.headers["ratelimit"] == '"account";r=4;t=1'


async def test_the_limit_is_drawn_on_whatever_the_handler_answers(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:4"})
    async with house.client() as client:
        for number, path in enumerate(["/refuses", "/sync/boom", "/stream", "/nothing"]):
            answer = await client.get(path)
            assert answer.headers["ratelimit"].startswith(f'"default";r={3 - number};'), path
        assert (await client.get("/refuses")).status_code == 429


async def test_a_refused_request_says_when_to_come_back_and_consumes_nothing(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:2"})
    async with house.client() as client:
        assert [(await client.get("/nothing")).status_code for _ in range(2)] == [204, 204]
        for _ in range(50):
            refused = await client.get("/nothing")
            assert refused.status_code == 429
            assert refused.json()["code"] == "rate_limited"
            assert refused.headers["retry-after"] == "10"
            assert refused.headers["ratelimit"].startswith('"default";r=0;')
        house.clock.advance(seconds=10)
        assert (await client.get("/nothing")).status_code == 204
        assert (await client.get("/nothing")).status_code == 429


async def test_a_refused_request_is_not_read_nor_handled(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:1"})
    assert (await Sender("/raw", [b"x"]).to(house)).sent == []  # its client went away; it counts all the same
    refused = await Sender("/raw", endless(b"x")).to(house)
    assert (refused.status, refused.taken) == (429, 0)


async def test_an_account_has_one_budget_from_wherever_it_calls(new_house: NewHouse) -> None:
    house = new_house({"account": "6/60:3"})
    statuses: list[int] = []
    for number in range(5):
        async with house.client(f"192.0.2.{number}") as client:
            statuses.append((await client.get("/private", headers={"authorization": "Bearer of-alice"})).status_code)
    assert statuses == [200, 200, 200, 429, 429]
    async with house.client() as client:
        assert (await client.get("/private", headers={"authorization": "Bearer of-bob"})).status_code == 200


async def test_guesses_at_tokens_draw_on_the_address_and_never_on_an_account(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:3", "account": "6/60:3"})
    async with house.client() as client:
        guesses = [await client.get("/private", headers={"authorization": f"Bearer guess-{n}"}) for n in range(5)]
        assert [guess.status_code for guess in guesses] == [401, 401, 401, 429, 429]
        # the budget that is used up is the address's, and the answer says so
        assert guesses[-1].headers["ratelimit-policy"] == '"default";q=6;w=60'
        assert guesses[-1].headers["ratelimit"].startswith('"default";r=0;')
        assert guesses[-1].headers["retry-after"] == "10"
        assert (await client.get("/private")).status_code == 429
        assert (await client.get("/nowhere")).status_code == 429
        assert (await client.get("/private", headers={"authorization": "Bearer of-alice"})).status_code == 200
    async with house.client("192.0.2.99") as other:
        assert (await other.get("/private")).status_code == 401


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip", "true-client-ip"])
async def test_a_header_of_the_clients_making_gives_no_new_budget(new_house: NewHouse, header: str) -> None:
    house = new_house({"default": "6/60:2"})
    async with house.client() as client:
        answers = [await client.get("/nothing", headers={header: f"198.51.100.{number}"}) for number in range(4)]
    assert [answer.status_code for answer in answers] == [204, 204, 429, 429]


@pytest.mark.parametrize(
    ("hops", "forwarded", "address"),
    [
        (0, ["198.51.100.1"], ADDRESS),
        (1, [], ADDRESS),
        (1, ["198.51.100.1"], "198.51.100.1"),
        (1, ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
        (1, ["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
        (2, ["198.51.100.1"], ADDRESS),
        (2, ["203.0.113.9, 198.51.100.1, 10.0.0.1"], "198.51.100.1"),
        (2, ["203.0.113.9, 198.51.100.1", "10.0.0.1"], "198.51.100.1"),
        (1, [","], ADDRESS),
        (1, ["x" * 1000], "x" * 64),
    ],
)
async def test_as_many_entries_as_there_are_proxies_are_believed_from_the_right(
    new_house: NewHouse, hops: int, forwarded: list[str], address: str
) -> None:
    house = new_house(trust_proxy=hops)
    async with house.client() as client:
        answer = await client.get("/refuses", headers=[("x-forwarded-for", value) for value in forwarded])
    assert answer.json()["address"] == address


# --- handlers that draw themselves ---


async def test_an_endpoint_whose_handler_draws_takes_nothing_at_the_edge(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:2", "account": "6/60:2"})
    async with house.client() as client:
        for _ in range(5):
            answer = await client.get("/draws-itself")
            assert answer.status_code == 200
            assert answer.headers.get_list("ratelimit") == ['"own";r=1;t=2']
            assert "ratelimit-policy" not in answer.headers
            answer = await client.get("/draws-for", headers={"authorization": "Bearer of-alice"})
            assert (answer.status_code, answer.headers.get("ratelimit")) == (200, None)
        assert (await client.get("/nothing")).headers["ratelimit"].startswith('"default";r=1;')


async def test_guesses_at_tokens_cost_where_the_handler_draws_too(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:2"})
    async with house.client() as client:
        guesses = [await client.get("/draws-for", headers={"authorization": f"Bearer guess-{n}"}) for n in range(4)]
    assert [guess.status_code for guess in guesses] == [401, 401, 429, 429]
