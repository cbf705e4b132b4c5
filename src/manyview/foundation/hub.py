"""The Hugging Face hub, asked once: its client would try six times for each file, most of a minute, to say the same."""

from __future__ import annotations

from manyview.errors import reason


def no_answer(repository: str, file: str, revision: str | None = None, kind: str = "model") -> str | None:
    """Why the hub does not answer, after one question for a file; None where it does, whatever it says.

    kind: "model" or "dataset". The user's own HF_HUB_OFFLINE is a reason, too.
    """
    import huggingface_hub as hub  # only what fetches from it needs it
    from huggingface_hub.errors import HfHubHTTPError

    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, file, revision=revision, repo_type=kind))
    except HfHubHTTPError:
        return None  # such as a file of another name
    except Exception as error:  # what connections raise has no common base
        return reason(error)
    return None
