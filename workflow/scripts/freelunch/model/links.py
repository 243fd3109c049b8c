"""Shards that several checkpoints share, stored once. No tensor is read for it."""

from typing import Any

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter


def link_shard(writer: ArtifactWriter, shard: str, source: Artifact, **facts: Any) -> None:
    """Add a shard of another artifact, stored once."""
    facts |= {key: source.files[shard][key] for key in ("tensors", "tensor_bytes")}
    writer.link(shard, source, shard, **facts)
