"""Records of a run's own life: who worked on it, what failed, whether it has ended."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SessionRecord:
    """A process began to work on the run; a run that was killed has several.

    Attributes:
        started_at: UTC.
        host: machine.
        pid: process.
    """

    started_at: str
    host: str
    pid: int


@dataclass(frozen=True)
class FailureRecord:
    """A case that could not be measured; the others go on.

    Attributes:
        case: as `bench.records.cases.case_of` would name its record.
        error: class of the error.
        message: its first line.
        was_asked_for: whether the run is less than what was asked for without it; what was only tried, such
            as a graph beside an eager part, is told and fails no run.
    """

    case: list[str | int | bool | None]
    error: str
    message: str
    was_asked_for: bool = True


@dataclass(frozen=True)
class EndRecord:
    """Everything was measured; what comes after this line belongs to no run.

    Attributes:
        ended_at: UTC.
    """

    ended_at: str
