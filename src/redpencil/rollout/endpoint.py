"""A chat model behind a URL: any server of the OpenAI chat completions protocol.

What is sent goes to the URL that the user named and nowhere else: redirects are not followed. The
key comes from the environment variable OPENAI_API_KEY, is sent as a bearer token, and is never
printed or stored: even where the server repeats it in a message it is blotted out.
"""

import os
import threading
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from redpencil.errors import EndpointError, RecipeError

KEY_VARIABLE = "OPENAI_API_KEY"
BACKOFF = 1.0
"""Seconds before the first repetition; each further wait is twice as long."""
LONGEST_WAIT = 60.0
"""Seconds: a server that asks for more (Retry-After) is not waited for."""
_PASSING = frozenset({408, 409, 425, 429})
"""Refusals that pass; those from 500 on do too."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was asked for and what it cost. unreported: replies without the server's count."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unreported: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.unreported + other.unreported,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """text: what the model said. usage.requests counts the repeated ones too."""

    text: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a chat model is. url: the part before /chat/completions, "http://localhost:8000/v1".

    timeout: seconds that a reply may take. Raises RecipeError for what is no such URL.
    """

    url: str
    model: str
    max_tokens: int = 512
    timeout: float = 60.0
    retries: int = 4
    key: str | None = field(default_factory=lambda: _key(), repr=False)

    def __post_init__(self) -> None:
        try:
            parsed = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise RecipeError(f"--judge-url is no URL: {error}") from None  # it may hold a secret
        if parsed.userinfo or parsed.query:
            raise RecipeError(
                "--judge-url holds a key or a query; what is secret belongs into the environment "
                f"variable {KEY_VARIABLE}"
            )
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise RecipeError(
                f"the environment variable {KEY_VARIABLE} holds characters that are in no key"
            )
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise RecipeError(
                f"--judge-url {self.url!r} must begin with http:// or https:// and name a host"
            )

    @property
    def address(self) -> str:
        base = self.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


def _key() -> str | None:
    """From the environment; a line end that came along with it is not part of it."""
    return os.environ.get(KEY_VARIABLE, "").strip() or None


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why a request was in vain. wait: seconds that the server asked for."""

    reason: str
    wait: float | None = None


class ChatModel:
    """Asks a chat model, from any thread. Use as a context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._client = httpx2.Client(headers=headers, timeout=endpoint.timeout)
        self._options: dict[str, Any] = {"temperature": 0, "max_tokens": endpoint.max_tokens}
        self._stopped = threading.Event()

    def __enter__(self) -> "ChatModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Give up what is waiting or under way."""
        self._stopped.set()
        self._client.close()

    def ask(self, text: str) -> Reply:
        """One reply to one user turn, at temperature 0.

        Faults that pass (no connection, a timeout, 429, 5xx, a reply that is no JSON) are repeated
        with growing waits. Raises EndpointError when they do not pass, and for other refusals.
        """
        fault = _Fault("")
        for attempt in range(self.endpoint.retries + 1):
            if attempt:
                self._wait(fault, attempt)
            outcome = self._once(text, attempt + 1)
            if isinstance(outcome, Reply):
                return outcome
            fault = outcome
        raise EndpointError(
            f"{self.endpoint.address} gave no usable answer in {self.endpoint.retries + 1} "
            f"attempts: {fault.reason}"
        )

    def _wait(self, fault: _Fault, attempt: int) -> None:
        seconds = BACKOFF * 2 ** (attempt - 1) if fault.wait is None else fault.wait
        if seconds > LONGEST_WAIT:
            raise EndpointError(
                f"{self.endpoint.address} asks to be left alone for {seconds:.0f} s: {fault.reason}"
            )
        if self._stopped.wait(seconds):
            raise EndpointError(f"stopped asking {self.endpoint.address}")

    def _once(self, text: str, attempts: int) -> Reply | _Fault:
        options = self._options
        body = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": text}],
            **options,
        }
        try:
            response = self._client.post(self.endpoint.address, json=body)
        except httpx2.TimeoutException:
            return _Fault(f"no reply within {self.endpoint.timeout:g} s")
        except httpx2.TransportError as error:
            return _Fault(self._told(str(error) or type(error).__name__))
        except RuntimeError:  # the client was closed by `stop`
            raise EndpointError(f"stopped asking {self.endpoint.address}") from None
        if response.is_success:
            return self._reply(response, attempts)
        said = self._complaint(response)
        reason = f"status {response.status_code}: {said}"
        if response.status_code in _PASSING or response.status_code >= 500:
            return _Fault(reason, _retry_after(response.headers.get("Retry-After")))
        if response.status_code == 400 and self._adapted(options, said):
            return _Fault(reason, wait=0.0)
        hint = ""
        if response.status_code in (401, 403):
            hint = f"; the key is read from the environment variable {KEY_VARIABLE}"
        elif response.status_code == 404:
            hint = "; --judge-url is the part before /chat/completions, often ending in /v1"
        raise EndpointError(f"{self.endpoint.address} refused the request, {reason}{hint}")

    def _adapted(self, refused: dict[str, Any], complaint: str) -> bool:
        """Some models want `max_completion_tokens`, or take no temperature but their own: then
        every further request is made so. Whether the complaint was one of these."""
        others = dict(refused)
        if "max_completion_tokens" in complaint and "max_tokens" in refused:
            others["max_completion_tokens"] = others.pop("max_tokens")
        elif "temperature" in complaint and "temperature" in refused:
            del others["temperature"]
        else:
            return False
        self._options = others
        return True

    def _reply(self, response: httpx2.Response, attempts: int) -> Reply | _Fault:
        try:
            body = response.json()
            content = body["choices"][0]["message"].get("content")
        except (ValueError, LookupError, TypeError, AttributeError):
            return _Fault(f"the reply is no chat completion: {self._told(response.text)!r}")
        counted = body.get("usage") or {}
        sent, got = counted.get("prompt_tokens"), counted.get("completion_tokens")
        usage = Usage(attempts, unreported=1)
        if isinstance(sent, int) and isinstance(got, int):
            usage = Usage(attempts, sent, got)
        return Reply(self._blotted(content if isinstance(content, str) else ""), usage)

    def _complaint(self, response: httpx2.Response) -> str:
        """What the server says is wrong, whichever way it says it."""
        try:
            body = response.json()
            said = body.get("error", body.get("detail", body))
            said = said.get("message", said) if isinstance(said, dict) else said
        except (ValueError, AttributeError):
            said = response.text
        return self._told(str(said)) or response.reason_phrase

    def _told(self, text: str) -> str:
        """A server's words, short enough for a sentence and without the key."""
        return " ".join(self._blotted(text).split())[:200]

    def _blotted(self, text: str) -> str:
        return text.replace(self.endpoint.key, "***") if self.endpoint.key else text


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
