"""`freelunch pin`: write the commits of a study's branches and tags into a file beside it."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically
from freelunch.data.hub import Unreachable, check_download, newest_commit
from freelunch.study.pins import Pin, Pins, hub_entries, pins_file, pins_of_others, read_pins
from freelunch.study.sources import Hub
from freelunch.study.study import Study


def pin_study(study: Study) -> Iterator[str]:
    """Pin a study's branches and tags, and yield what was done about each.

    Pins that are there stay, and so do those of the parts of the study that are not run. A pin of
    another study here is taken over, since studies share the folders that models and texts are
    fetched to: two commits would be fetched in turn, and all results made again each time.

    Args:
        study: The study as it is written, without its pins.

    Raises:
        UserError: The file of pins is damaged; it is then as it was. Or the hub cannot be reached,
            or some sources are not there, are gated, or cannot be downloaded at their commits; the
            others are pinned, and no pin is removed.
    """
    path, before = pins_file(study.source), read_pins(study.source)
    known = {path: before, **pins_of_others(study.source)}
    every = hub_entries(study.of_part(None))
    moving = {where: entry for where, entry in every.items() if not entry.is_commit}
    asked = {where: moving[where] for where in hub_entries(study) if where in moving}
    others = [entry for where, entry in moving.items() if where not in asked]
    pins = {entry: pin for entry in others if (pin := before.of(entry)) is not None}
    lines: list[str] = []

    def pin_one(where: str, entry: Hub) -> None:
        newest = newest_commit(where, entry)
        pinned = [(pin, file) for file, each in known.items() if (pin := each.of(entry))]
        pin, said = Pin(commit=newest, resolved=datetime.now(UTC).date()), ""
        if pinned:
            pin, said = pinned[0][0], f", pinned on {pinned[0][0].resolved} in {pinned[0][1]}"
        said += f"; the hub has {newest} now" if newest != pin.commit else ""
        check_download(where, entry.model_copy(update={"revision": pin.commit}))
        pins[entry] = pin
        lines.append(f"{where}: {entry.repository} at {entry.revision} is {pin.commit}{said}")

    problem: UserError | None = None
    try:
        ask_for_all(asked, pin_one, "sources could not be pinned", study.source)
    except UserError as error:
        problem = error
    yield from lines
    # A name that is not on the hub may be a slip of the pen, whose correction needs the pin.
    after = Pins.joined(pins, before if problem else None)
    for kind, repository, revision in sorted({*before.names()} - {*after.names()}):
        yield f"removed from {kind}: {repository} at {revision}, which the study does not name"
    if after == Pins():
        path.unlink(missing_ok=True)
        yield f"{study.source} has no pins{'' if problem else ', since it names no branch or tag'}."
    elif after == before:
        yield f"{path} is as it was."
    else:
        write_atomically(path, after.text(study.source))
        yield f"Written: {path}. Keep it with the study."
    if problem:
        raise problem


def ask_for_all(
    entries: Mapping[str, Hub], ask: Callable[[str, Hub], None], what: str, study: str
) -> None:
    """Ask the hub for several sources, by the places of their entries, and tell all problems at
    once. If the hub itself fails, ask for no more of them.

    Raises:
        UserError: There are problems; `what` says which, such as "sources could not be pinned". A
            single one is raised as it is.
    """
    problems: list[UserError] = []
    for where, entry in entries.items():
        try:
            ask(where, entry)
        except UserError as error:
            problems.append(error)
            if isinstance(error, Unreachable):
                break
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = [f"  {line}" for each in problems for line in str(each).splitlines()]
        raise UserError("\n".join([f"{len(problems)} {what}", *lines]), where=study)
