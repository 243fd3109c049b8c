"""Which errors of huggingface_hub are of the hub itself, so that no other source is asked for."""

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from freelunch.core.errors import UserError
from freelunch.data.hub_errors import Unreachable, hub_errors
from freelunch.study.sources import HubModel


def answered(status: int) -> Exception:
    request = httpx2.Request("GET", "https://hub.invalid/api")
    return HfHubHTTPError("no", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "is_of_the_hub"),
    [
        (answered(429), True),
        (answered(500), True),
        (answered(503), True),
        (httpx2.ConnectError("refused"), True),
        (OfflineModeIsEnabled("offline"), True),
        (OSError("no space left"), True),
        (answered(403), False),
        (answered(400), False),
        (ValueError("not valid JSON"), False),
    ],
)
def test_an_error_is_of_the_hub_or_of_one_repository(error: Exception, is_of_the_hub: bool) -> None:
    entry = HubModel.model_construct(repository="team/one", revision="main")
    with pytest.raises(UserError) as refused, hub_errors("models.one", entry):
        raise error
    assert isinstance(refused.value, Unreachable) == is_of_the_hub
    assert "models.one.repository: team/one cannot be read from" in str(refused.value)
