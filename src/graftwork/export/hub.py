"""Files to the Hugging Face Hub, through ``huggingface_hub`` (extra ``[hub]``)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from graftwork.core.errors import Conflict, Forbidden, InvalidRequest, Unauthorized, Unavailable
from graftwork.export.request import Push


def push(folder: Path, to: Push) -> str:
    """Upload a folder as one commit, making the repository if need be; its address.

    A repository that is there already keeps its visibility.

    Raises:
        Unauthorized, Forbidden, InvalidRequest, Conflict, Unavailable: what the Hub said, without the token.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # Its transport's errors come through as they are; the transport depends on the version.
    transport_error = cast("type[Exception]", HfHubHTTPError.__mro__[1])
    api = HfApi(endpoint=to.endpoint, token=to.token.get_secret_value())
    try:
        api.create_repo(to.repository, private=to.private, exist_ok=True)
        done = api.upload_folder(
            repo_id=to.repository, folder_path=folder, commit_message="Upload from Graftwork"
        )
    except HFValidationError as error:
        raise InvalidRequest(
            f"{to.repository!r} is no name of a repository.", fix="Name it as owner/name.", param="repository"
        ) from error
    except HfHubHTTPError as error:
        raise _refused(error.response.status_code, to.repository) from error
    except (transport_error, RuntimeError) as error:  # the latter: a large file that was not taken
        raise Unavailable(
            f"The Hub does not answer ({type(error).__name__}).",
            fix="Try again later.",
            code="hub_unreachable",
        ) from error
    return str(done.repo_url)


def _refused(status: int, repository: str) -> Exception:
    match status:
        case 401:
            return Unauthorized(
                "The Hub does not know this token.", fix="Make one that may write.", code="hub_token"
            )
        case 403:
            return Forbidden(
                f"The token may not write to {repository}.", fix="Give it that right.", code="hub_forbidden"
            )
        case 409:
            return Conflict(f"The Hub would not take {repository} so.", fix="Try again.", code="hub_conflict")
        case _ if status < 500:
            return InvalidRequest(
                f"The Hub refused {repository} ({status}).", fix="Check its name.", code="hub_refused"
            )
        case _:
            return Unavailable(f"The Hub failed ({status}).", fix="Try again later.", code="hub_unreachable")
