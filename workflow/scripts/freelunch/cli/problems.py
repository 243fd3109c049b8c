"""Problems of a study that are told together, so that one run finds all of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from freelunch.core.errors import UserError


class Problems(list[UserError]):
    """Problems that are told as one error, after all of them were found."""

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep a UserError in place of raising it."""
        try:
            yield
        except UserError as error:
            self.append(error)

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
