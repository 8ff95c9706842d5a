"""Posts a JSON text to an address over HTTP (adapter over urllib)."""

from __future__ import annotations

import urllib.error
import urllib.request

from hpctrain.errors import HpctrainError

TIMEOUT_S = 15.0


class _StayThere(urllib.request.HTTPRedirectHandler):
    """A redirection could carry what we say to somebody else."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Follow none."""


def post(address: str, body: bytes) -> None:
    """Send it.

    Raises:
        HpctrainError: no answer, or one that is no success. The message holds no part of the address, which may be secret.
    """
    if not address.startswith(("https://", "http://")):
        raise HpctrainError("the webhook's address is not one of HTTP")
    request = urllib.request.Request(address, data=body, method="POST", headers={"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.build_opener(_StayThere).open(request, timeout=TIMEOUT_S) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as error:
        raise HpctrainError(f"HTTP status {error.code}") from None
    except (OSError, ValueError) as error:
        raise HpctrainError(f"no answer ({type(error).__name__})") from None
