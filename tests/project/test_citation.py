"""What the project says of itself, to people who cite it and to catalogues: always the same."""

import json
import tomllib

import yaml

from repository import ROOT


def test_the_package_the_citation_and_codemeta_agree() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    codemeta = json.loads((ROOT / "codemeta.json").read_text())
    paper, article = citation["preferred-citation"], codemeta["referencePublication"]
    assert codemeta["name"] == citation["title"]
    assert codemeta["description"] == package["description"]
    assert codemeta["version"] == citation["version"] == package["version"]
    heads = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line[:3] == "## "]
    assert heads[0] == f"## {package['version']}"
    assert citation["references"] == [paper]
    assert citation["license"] == package["license"]
    assert codemeta["license"] == f"https://spdx.org/licenses/{package['license']}"
    assert codemeta["runtimePlatform"] == f"Python {package['requires-python']}"
    assert [one["name"] for one in codemeta["author"]] == [
        one["name"] for one in citation["authors"]
    ]
    assert (article["name"], article["url"]) == (paper["title"], paper["url"])
    assert article["datePublished"] == str(paper["year"])
    families = [one["family-names"] for one in paper["authors"]]
    assert [one["familyName"] for one in article["author"]] == families
