"""The chat protocol against a real socket: answers, faults that pass, faults that do not."""

import json
import socket
import time

import pytest

from judge_server import Fault, judge_server
from redpencil.errors import EndpointError, RecipeError
from redpencil.rollout.endpoint import ChatModel, Endpoint

SECRET = "sk-open-sesame"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("redpencil.rollout.endpoint.BACKOFF", 0.001)


def ask(url, **options):
    with ChatModel(Endpoint(url=url, model="m", **{"retries": 2, "key": None, **options})) as model:
        return model.ask("Who wins?")


def test_an_answer_with_its_cost():
    with judge_server(lambda question: f"you asked: {question}") as server:
        reply = ask(server.url)
        again = ask(f"{server.url}/chat/completions")
    assert reply.text == again.text == "you asked: Who wins?"
    assert (reply.usage.requests, reply.usage.prompt_tokens) == (1, 100)
    assert (reply.usage.completion_tokens, reply.usage.unreported) == (10, 0)
    assert server.requests[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "Who wins?"}],
        "temperature": 0,
        "max_tokens": 512,
    }


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500, "oops"),
        Fault(503, '{"error": {"message": "loading"}}'),
        Fault(429, "slow down", {"Retry-After": "0.01"}),
        Fault(429, "slow down", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Fault(200, "{"),
        Fault(200, "{}"),
        Fault(200, '{"choices": []}'),
        Fault(200, "", hangs=True),
    ],
    ids=lambda f: f"{f.status} {f.body[:6]} {f.hangs}",
)
def test_a_fault_that_passes(fault):
    with judge_server(faults=[fault]) as server:
        reply = ask(server.url, timeout=3.0 if fault.hangs else 300.0)
    assert reply.text == "[[C]]"
    assert reply.usage.requests == 2


def test_retry_after_is_waited_for():
    with judge_server(faults=[Fault(429, "", {"Retry-After": "0.2"})]) as server:
        began = time.monotonic()
        ask(server.url)
    assert time.monotonic() - began >= 0.2  # a lower bound, whatever the machine's speed


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ([Fault(500, "oops")] * 3, ["3 attempts", "status 500: oops"]),
        ([Fault(200, "<html>")] * 3, ["no chat completion", "<html>"]),
        ([Fault(200, "", hangs=True)] * 3, ["no reply within 0.5 s"]),
        ([Fault(401, '{"error": {"message": "bad key"}}')], ["bad key", "OPENAI_API_KEY"]),
        ([Fault(400, '{"detail": "unknown model m"}')], ["refused", "unknown model m"]),
        ([Fault(429, "quota", {"Retry-After": "3600"})], ["left alone for 3600 s", "quota"]),
        ([Fault(302, "", {"Location": "http://elsewhere.invalid/"})], ["refused", "302"]),
    ],
)
def test_a_fault_that_does_not_pass(faults, words):
    with judge_server(faults=faults) as server, pytest.raises(EndpointError) as caught:
        ask(server.url, timeout=0.5 if faults[0].hangs else 300.0)
    for word in words:
        assert word in str(caught.value)
    assert len(server.requests) == len(faults)


def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match="refused"):
            ask(url)


def test_a_wrong_path_says_what_the_url_is():
    with judge_server() as server, pytest.raises(EndpointError, match="often ending in /v1"):
        ask(server.url.removesuffix("/v1"))


def test_the_key_is_sent_and_never_told(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    refusal = Fault(401, json.dumps({"error": {"message": f"wrong key {SECRET}"}}))
    with judge_server(lambda question: f"the key is {SECRET}", [refusal]) as server:
        endpoint = Endpoint(url=server.url, model="m")
        with ChatModel(endpoint) as model:
            with pytest.raises(EndpointError) as caught:
                model.ask("?")
            reply = model.ask("?")
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert "wrong key ***" in str(caught.value)
    assert reply.text == "the key is ***"
    assert SECRET not in repr(endpoint)


def test_a_model_with_other_parameters():
    faults = [
        Fault(400, '{"error": {"message": "use max_completion_tokens instead of max_tokens"}}'),
        Fault(400, '{"error": {"message": "temperature does not support 0"}}'),
    ]
    with judge_server(faults=faults) as server:
        assert ask(server.url).usage.requests == 3
    assert server.requests[-1].keys() == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x/v1", "http://", "http://u:p@x/v1", "http://x/v1?key=1"]
)
def test_a_wrong_url(url):
    with pytest.raises(RecipeError, match="--judge-url") as caught:
        Endpoint(url=url, model="m")
    assert "u:p" not in str(caught.value)


def test_a_line_end_is_no_part_of_a_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\n")
    assert Endpoint(url="http://x/v1", model="m").key == "sk-one"
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    assert Endpoint(url="http://x/v1", model="m").key is None


@pytest.mark.parametrize("key", ["sk-ü", "sk-a\rb"])
def test_what_is_no_key_is_refused_untold(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(RecipeError, match="OPENAI_API_KEY holds characters") as caught:
        Endpoint(url="http://x/v1", model="m")
    assert "sk-" not in str(caught.value)
