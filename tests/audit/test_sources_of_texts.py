"""What the audit says of where a text comes from, for every kind of source."""

from configs import everything
from freelunch.audit.crate_facts import source_of
from freelunch.audit.protocol import text_identity
from freelunch.study.study import Study


def test_every_text_has_a_source() -> None:
    texts = Study.check(everything(), "config.yaml").config.texts
    assert {"mixed", "files", "hub", "own", "ids", "c4"} <= texts.keys()
    said = {name: text_identity(text) for name, text in texts.items()}
    assert said["mixed"] == "mixture of 50 % c4, 50 % unused" and said["files"] == "p: m/*.txt"
    sources = {name: source_of("texts", text) for name, text in texts.items()}
    assert all(said.values()) and all(sources.values())
    assert sources["mixed"] == {"alternateName": "mixture of 50 % c4, 50 % unused"}
    assert sources["files"]["identifier"].startswith("pkg:pypi/p@1?checksum=sha256:0")
