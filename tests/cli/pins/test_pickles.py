"""A model on the hub that has pickles, and no safetensors."""

import yaml

from hub_standin import HubStandIn
from pinned_studies import PINS, STUDY, Said, pins, write_study

PICKLES = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
CONVERTED = {**PICKLES, "model.safetensors": b"weights"}


def test_a_model_of_pickles_is_not_pinned(hub: HubStandIn, refused: Said) -> None:
    """Nothing of it could be fetched; a pull request may have converted it."""
    hub.add("team/two", PICKLES)
    message = refused("pin", str(STUDY))
    assert "safetensors only, never pickle" in message and "models.two" in message
    assert "`revision: refs/pr/NUMBER`" in message
    assert "team/two" not in pins()["models"]


def test_the_refusal_of_pickles_names_pull_requests_that_convert_them(
    hub: HubStandIn, refused: Said, did: Said
) -> None:
    """Those that only say so are none; the hub's own bot comes first."""
    hub.add("team/two", PICKLES)
    hub.offer("team/two", CONVERTED, "Another bot's safetensors", "somebody-late")
    gone = hub.offer("team/two", CONVERTED, "safetensors", "who-thought-better")
    hub.offer("team/two", {**PICKLES, "onnx/a.safetensors": b""}, "onnx safetensors", "onnx")
    hub.offer("team/two", CONVERTED, "Add safetensors", "somebody")
    bots = hub.offer("team/two", CONVERTED, "Adding `safetensors` variant", "SFconvertbot")
    hub.offer("team/two", PICKLES, "Say that safetensors are coming", "somebody-else")
    hub.offer("team/two", CONVERTED, "Fix a word", "a-reader")
    hub.close(gone, "team/two")
    message = refused("pin", str(STUDY))
    assert "safetensors only, never pickle" in message and "pytorch_model.bin" in message
    first = message.index(f"`revision: {bots}` (by SFconvertbot, {hub.endpoint}/team/two/")
    assert first < message.index(" or `revision: refs/pr/4` (by somebody,")
    assert message.count("refs/pr/") == 2, "at most two"
    assert "team/two" not in pins()["models"]
    write_study({"models.two": {"revision": bots}})
    did("pin", str(STUDY))
    pinned = yaml.safe_load(PINS.read_text())
    assert any(bots in str(entry) for entry in pinned.values())


def test_a_hub_that_shows_no_pull_requests_hides_no_refusal(hub: HubStandIn, refused: Said) -> None:
    """Owners may switch them off, and mirrors may answer anything."""
    hub.add("team/two", PICKLES)
    for answer in (None, {"error": "none of these"}):
        hub.answer_discussions("team/two", answer)
        message = refused("pin", str(STUDY))
        assert "safetensors only, never pickle" in message
        assert "`revision: refs/pr/NUMBER`" in message


def test_a_model_without_any_weights_is_not_said_to_have_pickles(
    hub: HubStandIn, refused: Said
) -> None:
    hub.add("team/two", {"config.json": b"{}"})
    hub.offer("team/two", CONVERTED, "Add safetensors", "somebody")
    assert "there are no weights" in refused("pin", str(STUDY))
