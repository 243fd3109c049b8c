"""Problems with what a study takes from the hub, told together, so that one run finds all."""

from collections.abc import Iterator
from contextlib import contextmanager

from freelunch.core.errors import UserError
from freelunch.data.hub_errors import Unreachable


class Problems(list[UserError]):
    """Problems that are told as one error, after all of them were found."""

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep a UserError in place of raising it."""
        try:
            yield
        except UserError as error:
            self.append(error)

    @property
    def are_of_the_hub(self) -> bool:
        """Whether the hub itself failed, so that asking for more finds nothing else."""
        return any(isinstance(each, Unreachable) for each in self)

    def raise_any(self, what: str, where: object) -> None:
        """Raise the problems.

        Args:
            what: What happened to several, such as "sources could not be pinned".
            where: The file that they are in.

        Raises:
            UserError: There are problems; a single one is raised as it is.
        """
        if len(self) == 1:
            raise self[0]
        if self:
            lines = (f"  {line}" for each in self for line in str(each).splitlines())
            raise UserError("\n".join([f"{len(self)} {what}", *lines]), where=where)
