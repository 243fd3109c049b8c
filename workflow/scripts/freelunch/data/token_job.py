"""What jobs that make token ids of a text have in common: their inputs, and how they write."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor
from transformers import AutoTokenizer

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.data.documents import open_text
from freelunch.model.token_ids import check_vocabulary, write_tokens
from freelunch.study.steps import CALIBRATION, CHECKPOINT


@dataclass(frozen=True)
class TokenJob:
    """A job that makes token ids of a text.

    Attributes:
        model: The model, for its tokenizer and its vocabulary.
        text: A text, or ready token ids.
        folder: Output folder.
        fingerprint: Digest of everything that the result depends on.
        calibration: The calibration sample, if the result continues from it.
        held_out: The held-out sample, if the result continues from it.
    """

    model: Artifact
    text: Artifact
    folder: Path
    fingerprint: str
    calibration: Artifact | None = None
    held_out: Artifact | None = None

    @classmethod
    def of_manifests(
        cls,
        *,
        model: str,
        text: str,
        output: str,
        code: str,
        settings: Any,
        calibration: str | None = None,
        held_out: Iterable[str] = (),
    ) -> Self:
        """Return the job of a rule, whose inputs and output are manifests.

        Args:
            model, text, output, calibration: Paths of manifests.
            held_out: The manifest of the held-out sample, if there is one.
            code: Digest of the job's code.
            settings: Settings that the result depends on, as JSON.
        """
        checkpoint, source = Artifact.at(model, CHECKPOINT), open_text(Path(text).parent)
        sample = Artifact.at(calibration, CALIBRATION) if calibration else None
        reserved = next((Artifact.at(path, CALIBRATION) for path in held_out), None)
        earlier = [each for each in (sample, reserved) if each is not None]
        depends_on = fingerprint(code, settings, checkpoint, source, *earlier)
        return cls(checkpoint, source, Path(output).parent, depends_on, sample, reserved)

    def write(
        self, input_ids: Tensor, last: Mapping[str, Any] | None = None, **facts: Any
    ) -> Artifact:
        """Write token ids, (samples, length), int64, and what was noted about them.

        Args:
            input_ids: The token ids.
            last: Facts that the manifest has after the digests of the model and the text; their
                order decides its own digest.
            facts: Facts that it has before them, and further arguments of `write_tokens`.

        Raises:
            UserError: A token id is beyond the model's vocabulary.
        """
        check_vocabulary(input_ids, self.model, self.text.folder)
        facts |= {"model": self.model.digest, "text": self.text.digest, **(last or {})}
        return write_tokens(self.folder, self.fingerprint, input_ids, **facts)


def load_tokenizer(model: Artifact) -> Any:
    """Return a model's tokenizer."""
    return AutoTokenizer.from_pretrained(model.folder, trust_remote_code=False)
