"""What can go wrong with the hub, each in one line that says what to do."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from solotune.errors import SolotuneError


@dataclass(frozen=True)
class Asked:
    """What is asked of the hub, and how a message speaks of it."""

    kind: str
    """`model` or `data set`."""
    name: str
    revision: str
    key: str
    """The config's key that holds the name."""
    revision_key: str
    without_hub: str
    """What to do where the hub can't be reached at all."""
    error: type[SolotuneError]


def token() -> str | bool:
    """From the environment only, never from a file that some login left."""
    return os.environ.get("HF_TOKEN") or False


@contextmanager
def trouble_in_one_line(asked: Asked) -> Iterator[None]:
    """Turns what the hub's client raises into `asked.error`."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a line for each of its retries, else
    try:
        yield
    except GatedRepoError as error:
        raise asked.error(
            f"{asked.name} is gated",
            "Accept its terms on its page on the hub and set HF_TOKEN in the environment",
        ) from error
    except RevisionNotFoundError as error:
        raise asked.error(
            f"{asked.name} has no commit {asked.revision}",
            f"Check {asked.revision_key}; its page on the hub lists commits under 'Files and versions'",
        ) from error
    except RepositoryNotFoundError as error:
        raise asked.error(
            f"the hub has no {asked.kind} {asked.name} (or it is private)",
            f"Check {asked.key}; private ones need HF_TOKEN",
        ) from error
    except Exception as error:
        ours = isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | ConnectionError)
        # The hub's client lets some errors of the library below it through, which differs between its versions.
        below = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib3")
        if not (ours or below):
            raise
        raise asked.error(
            f"the hub can't be reached for {asked.name}@{asked.revision[:12]} ({_first_line(error)})",
            f"Check the network, or {asked.without_hub}",
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
