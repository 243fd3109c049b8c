"""`freelunch pin`: write the commits of a study's branches and tags into a file beside it."""

from collections.abc import Iterator
from datetime import UTC, datetime

from freelunch.cli.problems import Problems
from freelunch.core.files import write_atomically
from freelunch.data.hub_revisions import check_download, look_up
from freelunch.study.pins import Pin, Pins, hub_entries, pins_file, pins_of_others, read_pins
from freelunch.study.sources import Hub
from freelunch.study.study import Study


def pin_study(study: Study) -> Iterator[str]:
    """Pin a study's branches and tags: keep the pins that it has, add and remove others. Of a study
    of which a part is run, the pins of the other parts stay as they are.

    A pin of another study here is taken over, since studies share the folders that models and texts
    are fetched to: two commits would be fetched in turn, and all results made again each time.

    Args:
        study: The study as it is written, without its pins.

    Yields:
        What was done about each, one line each.

    Raises:
        UserError: The file of pins is damaged; it is then as it was. Or the hub cannot be reached,
            or some sources are not there, are gated, or cannot be downloaded at their commits; the
            others are pinned, and no pin is removed.
    """
    path, before = pins_file(study.source), read_pins(study.source)
    known = {path: before, **pins_of_others(study.source)}
    pins: dict[Hub, Pin] = {}
    problems = Problems()
    asked = hub_entries(study)
    for where, entry in hub_entries(study.of_part(None)).items():
        if entry.is_commit:
            continue
        if where not in asked:
            if (kept := before.of(entry)) is not None:
                pins[entry] = kept
            continue
        with problems.collected():
            found = look_up(where, entry)
            if found.repository != entry.repository:
                yield (
                    f"{where}: {entry.repository} was renamed on the hub; write the new name, "
                    f"`repository: {found.repository}`, into the study, and pin it again"
                )
            pin, said = Pin(commit=found.commit, resolved=datetime.now(UTC).date()), ""
            for file, others in known.items():
                if (other := others.of(entry)) is not None:
                    pin, said = other, f", pinned on {other.resolved} in {file}"
                    break
            said += f"; the hub has {found.commit} now" if found.commit != pin.commit else ""
            check_download(where, entry.model_copy(update={"revision": pin.commit}))
            pins[entry] = pin
            yield f"{where}: {entry.repository} at {entry.revision} is {pin.commit}{said}"
        if problems.are_of_the_hub:
            break
    # A name that is not on the hub may be a slip of the pen, whose correction needs the pin.
    after = Pins.joined(pins).over(before if problems else Pins())
    for kind, repository, revision in before.names():
        if (kind, repository, revision) not in after.names():
            yield f"removed from {kind}: {repository} at {revision}, which the study does not name"
    if after == Pins():
        path.unlink(missing_ok=True)
        nothing = "names no branch or tag on the hub, so there is nothing to pin"
        yield f"{study.source} {'has no pins' if problems else nothing}."
    elif after == before:
        yield f"{path} is as it was."
    else:
        write_atomically(path, after.text(study.source))
        yield f"Written: {path}. Keep it with the study."
    problems.raise_any("sources could not be pinned", study.source)
